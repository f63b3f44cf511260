"""A lock on a directory that ends with the process which holds it."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from ddaepp_jax.base.errors import InputError

NAME = ".lock"


@contextlib.contextmanager
def locked(directory: Path, mend: str, wait: bool = False) -> Iterator[None]:
    """Holds the lock of a directory, so that no other process writes there meanwhile.

    The kernel frees the lock when the process ends, however it ends. The file of the lock stays;
    it holds the process and the machine.

    Args:
      directory: an existing directory.
      mend: what the user can do if another process holds the lock.
      wait: whether to wait for that process instead of raising an error.

    Raises:
      InputError: another process holds the lock; the message names its process and machine. Or the
        file of the lock cannot be written.
    """
    file = directory / NAME
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(
            f"{directory}: cannot be written ({error.strerror}); make it writable, or use another"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            owner = os.read(descriptor, 1000).decode(errors="replace").strip() or "another process"
            raise InputError(f"{directory}: {owner} is writing there; {mend}") from None
        except OSError:
            pass  # The file system has no locks.
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        os.close(descriptor)
