"""Paths that the user gives."""

import errno
import os
import re
from pathlib import Path

from ddaepp_jax.base.errors import InputError, shown

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+")


def user_cache() -> Path:
    """Returns the package's folder in the user's cache, ``XDG_CACHE_HOME`` or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddaepp_jax"


def local_path(path: str | os.PathLike, field: str) -> Path:
    """Returns a path on this machine, with a leading ``~`` replaced by the home directory.

    Args:
      path: the path as the user wrote it.
      field: config field or argument that holds it, for errors.

    Raises:
      InputError: this is no path, is a URL such as gs://bucket/run, is empty, has a line break,
        begins with a ``~`` that names no home directory, or leads nowhere because it is too long or
        a link leads back to itself.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{field}: {shown(path)} is not a path; give a string or a Path")
    text = os.fspath(path)
    if not text or "\0" in text:
        raise InputError(f"{field}: {text!r} names no file; give a path")
    if _URL.match(text):
        raise InputError(
            f"{field}: {text} is not on a local disk; give a local path, e.g. one where gcsfuse "
            "mounts the bucket, or copy between the two"
        )
    if len(text.splitlines()) > 1 or text.endswith("\n"):
        raise InputError(f"{field}: {shown(text)} has a line break; give another path")
    try:
        local = Path(text).expanduser()
    except RuntimeError:
        raise InputError(
            f"{field}: {text} names no home directory; write the path in full"
        ) from None
    try:
        local.stat()
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise InputError(
                f"{field}: {shown(text)} leads nowhere ({error.strerror}); give another path"
            ) from None
    return local
