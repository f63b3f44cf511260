"""Several processes of one program: process 0 reads and writes files, and tells the others."""

import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")


def is_first() -> bool:
    """Whether this is process 0, which alone writes."""
    return jax.process_index() == 0


def from_first(compute: Callable[[], T]) -> T:
    """Calls a function in process 0 only, and returns its value in all processes.

    All processes have to call it. What the function raises is raised in all of them, so that none
    waits for a process which has ended.

    Args:
      compute: returns a small value that can be pickled.
    """
    if jax.process_count() == 1:
        return compute()
    value = error = None
    if is_first():
        try:
            value = compute()
        except Exception as raised:
            error = raised
    value, error = _broadcast((value, error))
    if error is not None:
        raise error
    return value


def any_process(flag: bool) -> bool:
    """Whether the flag is set in some process; all processes have to call it."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.bool_(flag)).any())


def wait_for_all(event: str) -> None:
    """Waits until all processes have come here.

    Args:
      event: what has happened by then; each place in the program needs its own.
    """
    multihost_utils.sync_global_devices(event)


def _broadcast(content: Any) -> Any:
    """Returns the content that process 0 gives, in all processes."""
    data = np.frombuffer(pickle.dumps(content), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    # Few sizes, since the transfer of each is compiled.
    padded = np.zeros(1 << max(10, (size - 1).bit_length()), np.uint8)
    if is_first():
        padded[:size] = data
    return pickle.loads(multihost_utils.broadcast_one_to_all(padded)[:size].tobytes())
