"""Files that are written whole or not at all."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ddaepp_jax.base.errors import InputError


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """Opens a new content of a file, which takes the old one's place when the block ends.

    A reader sees the old content or the new one, also after a power cut. If the block raises, the
    old content stays. A link stays a link to the file.
    """
    target = Path(os.path.realpath(file))  # also of a link that leads back to itself
    partial = target.with_name(f"{target.name}.partial")
    try:
        with partial.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def replace(file: Path, content: bytes) -> None:
    """Writes a file atomically: a reader sees the old content or the new one."""
    with replacing(file) as stream:
        stream.write(content)


def write_json(file: Path, content: Any) -> None:
    """Writes JSON atomically."""
    replace(file, (json.dumps(content, indent=1) + "\n").encode())


def try_writing(directory: Path) -> None:
    """Makes a directory, and a file in it that vanishes; raises the OSError if it cannot."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory):
        pass


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
        try_writing(directory)
    except OSError as error:
        raise InputError(
            f"{field}: cannot write in {directory} ({error.strerror}); {mend}"
        ) from None
