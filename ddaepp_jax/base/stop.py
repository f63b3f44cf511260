"""Signals that ask a running loop to stop where its work can be saved."""

import os
import signal
import sys
import threading
from types import TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Takes Ctrl-C and SIGTERM, as a context manager; the loop inside asks ``requested``.

    The first signal asks the loop to stop. A second Ctrl-C ends the process at once. A thread reads
    the signals, because Python runs its own handlers between two lines of the main thread only:
    they would wait until a computation returns, and an exception from one is lost if it meets a
    callback of the garbage collector.

    It does nothing where it is switched off, or outside the main thread, which alone may handle
    signals.

    Attributes:
      requested: number of the signal that asked to stop; 0 if none did.
    """

    def __init__(self, answer: str, active: bool = True) -> None:
        """Describes the manager; signals are taken inside ``with`` only.

        Args:
          answer: what the first signal prints on stderr.
          active: False switches it off.
        """
        self.requested = 0
        self._answer = answer
        self._active = active and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Stop":
        if self._active:
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            # A handler of Python's, so that the signal does not end the process.
            ignore = lambda number, frame: None
            self._handlers = {number: signal.signal(number, ignore) for number in SIGNALS}
            self._thread = threading.Thread(target=self._read, daemon=True)
            self._thread.start()
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
            self._take(number[0])

    def _take(self, number: int) -> None:
        if number not in SIGNALS:
            return
        name = "interrupted" if number == signal.SIGINT else "terminated"
        if not self.requested:
            self.requested = number
            again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
            print(f"\n{name}: {self._answer}{again}", file=sys.stderr, flush=True)
        elif number == signal.SIGINT:
            print("\nstopped; what was saved before is good", file=sys.stderr, flush=True)
            os._exit(128 + number)
