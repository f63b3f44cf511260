"""Paths that the user gives."""

import os
import re
from pathlib import Path

from ddaepp_jax.base.errors import InputError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+")


def local_path(path: str | os.PathLike, field: str) -> Path:
    """Returns a path on this machine, with a leading ``~`` replaced by the home directory.

    Args:
      path: the path as the user wrote it.
      field: config field or argument that holds it, for errors.

    Raises:
      InputError: this is no path, is a URL such as gs://bucket/run, is empty, or begins with a
        ``~`` that names no home directory.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{field}: {path!r} is not a path; give a string or a Path")
    text = os.fspath(path)
    if not text or "\0" in text:
        raise InputError(f"{field}: {text!r} names no file; give a path")
    if _URL.match(text):
        raise InputError(
            f"{field}: {text} is not on a local disk; give a local path, e.g. where the bucket is "
            "mounted"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InputError(
            f"{field}: {text} names no home directory; write the path in full"
        ) from None
