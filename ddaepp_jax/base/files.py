"""Files that are written whole or not at all."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ddaepp_jax.base.errors import InputError


def replace(file: Path, content: bytes) -> None:
    """Writes a file atomically: a reader sees the old content or the new one."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, file)


def write_json(file: Path, content: Any) -> None:
    """Writes JSON atomically."""
    replace(file, (json.dumps(content, indent=1) + "\n").encode())


def check_writable(directory: Path, field: str, mend: str) -> None:
    """Makes a directory, and refuses one in which no file can be made.

    Args:
      directory: the directory.
      field: names the directory's argument in the message.
      mend: what the user can do.

    Raises:
      InputError: no file can be made in the directory.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise InputError(
            f"{field}: cannot write in {directory} ({error.strerror}); {mend}"
        ) from None
