"""Work dispatched to the device, with a progress bar and periodic saving."""

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
from tqdm import tqdm

IN_FLIGHT = 2  # With two unfinished dispatches the device never idles, and memory stays bounded.
SAVE_SECONDS = 30.0

T = TypeVar("T")


def progress_bar(
    total: int, unit: str, title: str = "", initial: int = 0, disable: bool = False, **options: Any
) -> tqdm:
    """Makes a progress bar, shown by the first process unless it is disabled.

    A log file gets a line every 30 seconds.
    """
    return tqdm(
        total=total,
        unit=unit,
        desc=title or None,
        initial=initial,
        mininterval=0.5 if sys.stderr.isatty() else 30,
        dynamic_ncols=True,
        disable=disable or jax.process_index() != 0,
        **options,
    )


class InFlight(Generic[T]):
    """Results that were dispatched, in order; at most ``ahead`` of them are unfinished."""

    def __init__(
        self,
        bar: tqdm | None = None,
        save: Callable[[], None] | None = None,
        ahead: int = IN_FLIGHT,
    ) -> None:
        """Starts with nothing dispatched.

        Args:
          bar: counts finished work.
          save: is called after a dispatch when ``SAVE_SECONDS`` have passed since the last call.
          ahead: number of results that may be unfinished.
        """
        self._bar = bar
        self._save = save
        self._ahead = ahead
        self._queue: deque[tuple[T, int]] = deque()
        self._saved = time.monotonic()

    def add(self, result: T, size: int = 1) -> list[T]:
        """Adds a dispatched result that stands for ``size`` units of work.

        Returns:
          The results that have finished meanwhile, oldest first.
        """
        self._queue.append((result, size))
        finished = self.finish(self._ahead)
        if self._save and time.monotonic() - self._saved > SAVE_SECONDS:
            self._save()
            self._saved = time.monotonic()
        return finished

    def finish(self, left: int = 0) -> list[T]:
        """Waits until at most ``left`` results are unfinished, and returns the finished ones."""
        finished = []
        while len(self._queue) > left:
            result, size = self._queue.popleft()
            jax.block_until_ready(result)
            if self._bar is not None:
                self._bar.update(size)
            finished.append(result)
        return finished
