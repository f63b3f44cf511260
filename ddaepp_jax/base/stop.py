"""Signals that end a program, or ask a running loop to stop where its work can be saved."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ddaepp_jax.base import board
from ddaepp_jax.base.ending import end_process
from ddaepp_jax.base.errors import Stopped

SIGNALS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "the terminal was closed",
}


class Signals:
    """Takes Ctrl-C, SIGTERM and SIGHUP inside a ``with`` block.

    A thread reads them. Python would run a handler between two lines of the main thread only, so
    that it would wait until a computation returns, and an exception from it is lost, or crashes the
    process, if it meets a callback of the garbage collector or the import of a library.

    It does nothing outside the main thread, which alone may handle signals. A signal that is
    ignored, as after ``nohup``, stays ignored.
    """

    def __init__(self, take: Callable[[int], None]) -> None:
        """Describes the block.

        Args:
          take: is called with the number of each signal, in another thread.
        """
        self._take = take
        self._active = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Signals":
        if self._active:
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            self._thread = threading.Thread(target=self._read, daemon=True)
            self._thread.start()
            self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            # A handler of Python's, so that the signal does not end the process by itself.
            nothing = lambda number, frame: None
            self._handlers = {
                number: signal.signal(number, nothing)
                for number in SIGNALS
                if signal.getsignal(number) is not signal.SIG_IGN
            }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._active:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._writer)  # ends the thread
            self._thread.join()
            os.close(self._reader)

    def _read(self) -> None:
        while number := os.read(self._reader, 1):
            if number[0] in SIGNALS:
                self._take(number[0])


class Stop(Signals):
    """Lets the loop inside the block ask whether it should stop.

    The first signal asks it to; a second Ctrl-C ends the process at once. Several processes learn
    of each other's signals. Inside another such block it does nothing: the outer loop, e.g. a
    training that evaluates, stops by itself.

    Attributes:
      requested: number of the signal that asked this process; 0 if none did.
    """

    _outer: "Stop | None" = None

    def __init__(self, answer: str = "") -> None:
        """Describes the block.

        Args:
          answer: what the first signal prints on stderr; "" prints nothing.
        """
        super().__init__(self._request)
        self._active = self._active and Stop._outer is None
        self.requested = 0
        self._answer = answer

    def __enter__(self) -> "Stop":
        Stop._outer = Stop._outer or self
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if Stop._outer is self:
            Stop._outer = None

    def anywhere(self) -> int:
        """Returns the number of a signal that asked this process or another one; 0 if none did."""
        if self.requested or not board.joined():
            return self.requested
        return int(next(iter(board.read("signal").values()), 0))

    def check(self) -> None:
        """Ends a loop whose work another call of the program continues.

        Raises:
          Stopped: a signal asked to.
        """
        if self.requested:
            line = f"{SIGNALS[self.requested]}; the same command continues from what was saved"
            raise Stopped(line, 128 + self.requested)

    def _request(self, number: int) -> None:
        if not self.requested:
            self.requested = number
            if not self._answer:
                return
            again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
            if board.joined():
                note = f"signal/{board.process()}", str(number)
                threading.Thread(target=board.write, args=note, daemon=True).start()
            with contextlib.suppress(OSError):  # The terminal may be gone.
                print(f"\n{SIGNALS[number]}: {self._answer}{again}", file=sys.stderr, flush=True)
        elif number == signal.SIGINT:
            end_process("\nstopped; what was saved before is good", 128 + number)
