"""Ends a training that is stuck, as in a collective operation that another process never joins."""

import contextlib
import faulthandler
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType

from ddaepp_jax.base.ending import MEND, RESTART, end_process


class Watchdog:
    """Ends the process when no step has finished for too long inside its ``with`` block.

    It prints what each thread does, and a line; the exit code is ``RESTART``.
    """

    def __init__(self, seconds: float) -> None:
        """Describes the block.

        Args:
          seconds: the longest time without a finished step; 0: any time.
        """
        self._seconds = seconds
        self._left = threading.Event()
        self._last: float | None = None  # when a step finished; None in a pause
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def finished(self) -> None:
        """Takes note that steps have finished."""
        self._last = time.monotonic()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Lets the time inside the block not count."""
        self._last = None
        try:
            yield
        finally:
            self.finished()

    def __enter__(self) -> "Watchdog":
        self.finished()
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._left.set()
        if self._seconds:
            self._thread.join()

    def _watch(self) -> None:
        while not self._left.wait(min(1.0, self._seconds / 4)):
            last = self._last
            if last is not None and time.monotonic() - last > self._seconds:
                faulthandler.dump_traceback(sys.stderr)
                end_process(
                    f"error: no step has finished for {self._seconds:g} s (--stuck_timeout); the "
                    f"lines above say what each thread does; {MEND}",
                    RESTART,
                )
