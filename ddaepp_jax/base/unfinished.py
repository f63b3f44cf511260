"""Directories of unfinished work, which a later call of the same program continues."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ddaepp_jax.base import lock
from ddaepp_jax.base.files import replace
from ddaepp_jax.base.processes import entered_by_first, in_first, is_first


@contextlib.contextmanager
def workspace(directory: Path, mend: str) -> Iterator[Path]:
    """Holds a directory of unfinished work for this program, and removes it when the block ends.

    If the block raises, the directory stays for a later call. Of several processes, all of which
    enter the block, process 0 does this.

    Args:
      directory: the directory; it may be new.
      mend: what the user can do if another program works there.

    Raises:
      InputError: another program works there.
      OSError: the directory cannot be written.
    """
    in_first(lambda: directory.mkdir(parents=True, exist_ok=True))
    with entered_by_first(lock.locked(directory, mend)):
        yield directory
        if is_first():
            shutil.rmtree(directory, ignore_errors=True)


def partial_directory(out: Path, identity: Mapping[str, Any]) -> Path:
    """Opens the directory in which a stopped program left its partial work for ``out``.

    Partial work with another identity is removed.
    """
    directory = out.with_name(f"{out.name}-partial")
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "settings.json"
    content = json.dumps(identity).encode()
    if not (file.is_file() and file.read_bytes() == content):
        for entry in directory.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != lock.NAME:
                entry.unlink()
        replace(file, content)
    return directory
