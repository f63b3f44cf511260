"""Directories of work that a stopped program left, and of what comes of it."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.lock import locked


@contextlib.contextmanager
def workspace(directory: Path, mend: str) -> Iterator[Path]:
    """Holds a directory of unfinished work for this process, and removes it after the work.

    After an error it stays, so that the next call continues there.

    Args:
      directory: the directory; it may be new.
      mend: what the user can do if another process works there.

    Raises:
      InputError: another process works there.
      OSError: the directory can't be made.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory, mend):
        yield directory
        shutil.rmtree(directory, ignore_errors=True)


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
