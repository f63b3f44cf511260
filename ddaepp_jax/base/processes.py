"""Several processes of one program: process 0 reads and writes files, and tells the others.

All processes call each of these functions, in the same order. They meet on the hosts first, where a
process may wait for hours, as collectives of devices give up after half a minute on a CPU.
"""

import contextlib
import itertools
import pickle
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from ddaepp_jax.base.errors import Stopped, first_line

LONGEST = 7 * 24 * 3600 * 1000  # milliseconds that processes wait for one of them

T = TypeVar("T")

_meetings = itertools.count()


def is_first() -> bool:
    """Whether this is process 0, which alone writes."""
    return jax.process_index() == 0


def together(compute: Callable[[], T]) -> T:
    """Calls a function in every process, and returns in each its own value.

    If the function raises in some processes, all raise the error of the first of them, so that none
    waits for a process which has ended.
    """
    if jax.process_count() == 1:
        return compute()
    value = error = None
    try:
        value = compute()
    except (Exception, Stopped) as raised:
        error = raised
    _meet()
    failed = multihost_utils.process_allgather(np.bool_(error is not None))
    if failed.any():
        first = int(np.argmax(failed))
        theirs = pickle.loads(_broadcast(_dumped(error), first))
        raise error if jax.process_index() == first else theirs
    return value


def in_first(compute: Callable[[], T]) -> T | None:
    """Calls a function in process 0, and returns its value there and None in the others.

    What the function raises is raised in all processes.
    """
    return together(lambda: compute() if is_first() else None)


def from_first(compute: Callable[[], T]) -> T:
    """Calls a function in process 0 only, and returns its value in all processes.

    What the function raises is raised in all processes.

    Args:
      compute: returns a small value that can be pickled.
    """
    if jax.process_count() == 1:
        return compute()
    content = together(lambda: pickle.dumps(compute()) if is_first() else b"")
    return pickle.loads(_broadcast(content, 0))


@contextlib.contextmanager
def entered_by_first(context: contextlib.AbstractContextManager[Any]) -> Iterator[None]:
    """Enters a context in process 0 only; what entering it raises is raised in all processes."""
    with contextlib.ExitStack() as stack:
        in_first(lambda: stack.enter_context(context))
        yield


class Delayed:
    """Holds an error of one of several processes back, until all of them ask for it.

    An error inside ``with delayed:`` is raised by the next ``check``, which is meant to be called
    inside ``together``. A single process raises the error at once.
    """

    def __init__(self) -> None:
        self._error: Exception | None = None

    def check(self) -> None:
        """Raises the error, if there was one."""
        if self._error is not None:
            raise self._error

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception) or jax.process_count() == 1:
            return False
        self._error = self._error or error
        return True


def _meet() -> None:
    """Waits for all processes, without the devices."""
    meet = multihost.get_barrier_sync_fn()
    meet(key=f"ddaepp_jax meeting {next(_meetings)}", timeout_ms=LONGEST)


def _dumped(error: BaseException | None) -> bytes:
    """Returns an error as bytes; one that cannot be pickled becomes a RuntimeError of its text."""
    try:
        content = pickle.dumps(error)
        pickle.loads(content)
    except Exception:
        text = f"{type(error).__name__} in process {jax.process_index()}: {first_line(error)}"
        content = pickle.dumps(RuntimeError(text))
    return content


def _broadcast(content: bytes, source: int) -> bytes:
    """Returns the content that one process gives, in all processes."""
    is_source = jax.process_index() == source
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content)), is_source))
    # Few sizes, since the transfer of each is compiled.
    padded = np.zeros(1 << max(10, (size - 1).bit_length()), np.uint8)
    if is_source:
        padded[:size] = np.frombuffer(content, np.uint8)
    return multihost_utils.broadcast_one_to_all(padded, is_source)[:size].tobytes()
