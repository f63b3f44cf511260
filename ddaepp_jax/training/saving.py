"""Saving in the background by Orbax, with checksums and with errors in one line."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from ddaepp_jax.base.errors import InputError, SaveError, first_line
from ddaepp_jax.base.files import try_writing, write_json
from ddaepp_jax.base.processes import is_first

CHECKSUMS = "checksums.json"  # file in the directory of a step
PATTERN = "[]*?"  # characters of a path that Orbax expands as a pattern of file names
_THREADS = 8  # They read and hash files without Python's lock.


class Saver:
    """Saves items into ``<directory>/<step>/``, one step at a time, in the background.

    When a step is on disk, the checksums of its files are written beside them.
    """

    def __init__(
        self, directory: Path, barrier: str = "", checksums: bool = True, **options: Any
    ) -> None:
        """Opens the directory, which need not exist, and removes saves that were cut off.

        Args:
          directory: the directory of the steps.
          barrier: prefix of the names of barriers between processes; two savers that work at the
            same time need different ones.
          checksums: whether to write checksums.
          options: further fields of ``ocp.CheckpointManagerOptions``.

        Raises:
          SaveError: the directory cannot be written.
        """
        self._directory = directory
        self._checksums = checksums
        self._sealing: Future | None = None
        self._unread = True
        self._step: int | None = None  # the step that is being saved
        self._failed = False
        self._pool = ThreadPoolExecutor(1)
        with _one_line(directory):
            if is_first():
                try_writing(directory)
            self._manager = ocp.CheckpointManager(
                directory.absolute(),
                options=ocp.CheckpointManagerOptions(
                    cleanup_tmp_directories=True,
                    enable_async_checkpointing=True,
                    async_options=ocp.options.AsyncOptions(
                        # Otherwise threads wait for ever for a directory that cannot be made.
                        create_directories_asynchronously=False,
                        barrier_sync_fn=self._meet,
                    ),
                    multiprocessing_options=ocp.options.MultiprocessingOptions(
                        barrier_sync_key_prefix=barrier or None
                    ),
                    **options,
                ),
            )

    def steps(self) -> list[int]:
        """Returns the steps that are saved, in any order."""
        return list(self._manager.all_steps())

    def save(self, step: int, items: ocp.args.Composite, nbytes: int) -> None:
        """Starts saving a step, after the step before is on disk.

        Args:
          step: the step.
          items: what is saved.
          nbytes: size of the items in bytes.

        Raises:
          SaveError: this save cannot start, or the one before failed.
        """
        self.wait()
        with _one_line(self._directory / str(step)):
            _check_space(self._directory, nbytes)
            if not self._manager.save(step, args=items):
                raise SaveError(
                    f"{self._directory}: holds a later step than {step}, so that nothing is saved; "
                    "move it away, and the same command resumes from what is left"
                )
        self._step = step

    def poll(self) -> None:
        """Raises the error of a save that has failed meanwhile; it does not wait.

        Raises:
          SaveError: the save failed in this process, or what it wrote cannot be read.
        """
        # Several processes finish a save together, when they wait for it.
        finished = jax.process_count() == 1 and not self._manager.is_saving_in_progress()
        if self._step is not None and (finished or self._failed):
            self._finish()

    def _meet(self, *, key: str, timeout_ms: int) -> None:
        """Waits in a thread of Orbax for the other processes, unless this one's save has failed.

        After a failure, Orbax still waits here for the others, which wait elsewhere.
        """
        if error := sys.exception():
            self._failed = True
            raise error
        ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
          SaveError: as ``poll``.
        """
        if self._step is not None:
            self._finish()
        if self._sealing is not None:
            with _one_line(self._directory):
                self._sealing.result()
            self._sealing = None

    def _finish(self) -> None:
        step, self._step = self._step, None
        with _one_line(self._directory / str(step)):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
            if is_first():
                if self._unread:  # Whatever makes saves unreadable is known after the first.
                    _read_back(self._directory / str(step))
                    self._unread = False
                if self._checksums:
                    self._sealing = self._pool.submit(seal, self._directory / str(step))

    def reload(self) -> None:
        """Reads anew which steps are there."""
        self._manager.reload()

    def close(self) -> None:
        """Waits for the last save, and raises its error."""
        self.wait()
        self._manager.close()


def check_path(directory: Path) -> None:
    """Refuses a directory whose absolute path Orbax cannot take, or reads as a pattern.

    Raises:
      InputError: the path has one of ``PATTERN``, or is not UTF-8.
    """
    path = directory.absolute()
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"--workdir: {str(path)!a} is not UTF-8, so no checkpoint can be saved there; use "
            "another directory, or set PYTHONUTF8=1 if the locale is at fault"
        ) from None
    if wrong := sorted(set(str(path)) & set(PATTERN)):
        raise InputError(
            f"--workdir: {path} has {' and '.join(wrong)}, with which no checkpoint can be read; "
            "use another directory or rename it"
        )


@contextlib.contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turns any error of saving into a SaveError."""
    try:
        yield
    except SaveError:
        raise
    except Exception as error:  # Orbax and TensorStore raise many kinds.
        raise SaveError(
            f"{path}: cannot be saved ({_reason(error)}); what was saved before is good, and the "
            "same command resumes from it once the directory can be written"
        ) from error


def _reason(error: Exception) -> str:
    """Returns the operating system's reason of an error if it tells one."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else first_line(error)


def _check_space(directory: Path, nbytes: int) -> None:
    free = shutil.disk_usage(directory).free
    if nbytes > free:
        raise SaveError(
            f"{directory}: a save takes {nbytes / 2**20:.0f} MiB, and {free / 2**20:.0f} MiB are "
            "free; what was saved before is good: free space, and the same command resumes from it"
        )


def _read_back(path: Path) -> None:
    """Reads the metadata of a step's arrays."""
    tree = ocp.PyTreeCheckpointHandler().metadata((path / "ema").absolute()).tree
    if not jax.tree.leaves(tree):
        raise SaveError(f"{path}: what was saved cannot be read back; use another --workdir")


def seal(path: Path) -> None:
    """Writes the SHA-256 of each file of a step to ``checksums.json``.

    Args:
      path: directory of the step.
    """
    files = sorted(file for item in path.iterdir() if item.is_dir() for file in item.rglob("*"))
    files = [file for file in files if file.is_file()]
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = list(pool.map(_digest, files))
    names = [str(file.relative_to(path)) for file in files]
    write_json(path / CHECKSUMS, {"sha256": dict(zip(names, digests, strict=True))})


def verify(path: Path, *items: str) -> None:
    """Compares the files of a step with their checksums; a step without checksums passes.

    Args:
      path: directory of the step.
      items: items whose files are compared.

    Raises:
      InputError: a file is missing or differs.
    """
    try:
        checksums = dict(json.loads((path / CHECKSUMS).read_text())["sha256"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path / CHECKSUMS}: is damaged; remove it to skip the check") from None
    checked = [name for name in checksums if name.split("/")[0] in items]
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = list(pool.map(lambda name: _digest(path / name), checked))
    for name, digest in zip(checked, digests, strict=True):
        if digest != checksums[name]:
            raise InputError(f"{path / name}: differs from its checksum; choose another --step")


def _digest(file: Path) -> str:
    """Returns the SHA-256 of a file; "" if there is none."""
    if not file.is_file():
        return ""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
