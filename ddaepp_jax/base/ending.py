"""The end of a process, and of the processes that work with it.

A process that fails would leave the others waiting for it in a collective operation. So it leaves a
note of its reason (see ``ddaepp_jax.base.board``), and a thread of each process looks for notes.
"""

import atexit
import contextlib
import ctypes
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from ddaepp_jax.base import board

T = TypeVar("T")

RESTART = 75  # exit code: the input is right, and the same command may succeed (EX_TEMPFAIL)
MEND = "start all processes again by the same command, which continues from what was saved"

_LOOK_SECONDS = 1.0  # from one look at the notes to the next
_TELL_SECONDS = 5.0  # that a process waits at its end for the others to notice
# Found in errors of the libraries by which processes communicate: gloo, NCCL, JAX's service.
_LOST = re.compile(
    "gloo|nccl|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|coordination service|heartbeat|"
    "connection (reset|closed|refused)",
    re.IGNORECASE,
)

_ending = threading.Lock()  # taken by the thread that ends the process
_codes: list[int] = []  # the exit code, once a line is printed
_leaving = threading.Event()
_handlers: list[Any] = []  # of C; they must not be collected


def end_process(line: str, exit_code: int) -> NoReturn:
    """Prints a line on stderr and ends the process, whatever its other threads do.

    Of several processes, the others end too, within seconds and with the same exit code. They print
    the line with the number of this process.
    """
    _end(line, {"process": board.process(), "line": line.strip(), "code": exit_code})


def end_without_peers(reason: str) -> NoReturn:
    """Ends a process that cannot reach another one.

    If another process has ended with an error, the line is that one's.

    Args:
      reason: what failed here.
    """
    _end_like_another(_limited(lambda: board.read("ended")) or {})
    end_process(f"error: another process died or cannot be reached ({reason}); {MEND}", RESTART)


def end_together(line: str, exit_code: int) -> NoReturn:
    """Ends the process when all processes have come here, each with the same line."""
    if board.joined():
        import jax

        _leaving.set()
        jax.distributed.shutdown()
    _print(line)
    os._exit(exit_code)


def lost_peer(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that a process cannot be reached."""
    while error is not None and not _LOST.search(str(error)):
        error = error.__cause__
    return error is not None


def watch() -> None:
    """Lets this process end when another one ends with an error; call it once, when joined."""
    thread = threading.Thread(target=_watch, daemon=True)
    thread.start()

    def stop() -> None:
        _leaving.set()
        thread.join()

    atexit.register(stop)  # before JAX leaves the others


def report_aborts() -> None:
    """Lets the process end with a line and ``RESTART`` where JAX aborts it.

    JAX does so when process 0 cannot be reached, or when another process gave no sign for the
    heartbeat's time-out. The C library calls this handler, since Python would call its own only
    after the abort.
    """

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def aborted(number: int) -> None:
        if not _codes:
            line = "error: JAX aborted this process for the reason above: another process died or "
            os.write(2, f"{line}cannot be reached, most likely; {MEND}\n".encode())
        os._exit(_codes[0] if _codes else RESTART)

    _handlers.append(aborted)
    library = ctypes.CDLL(None)
    library.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    library.signal.restype = ctypes.c_void_p
    library.signal(signal.SIGABRT, ctypes.cast(aborted, ctypes.c_void_p))


def _watch() -> None:
    while not _leaving.wait(_LOOK_SECONDS):
        try:
            notes = board.read("ended")
        except Exception:  # Process 0 is gone; JAX ends this process.
            return
        _end_like_another(notes)


def _end_like_another(notes: Mapping[str, str]) -> None:
    """Ends this process if there is a note that another one has ended with an error."""
    for number in board.others():
        if str(number) in notes:
            note = json.loads(notes[str(number)])
            line = note["line"].removeprefix("error: ")
            _end(f"error: process {note['process']} has ended: {line}", note)


def _end(line: str, note: dict[str, Any]) -> NoReturn:
    """Prints a line, leaves a note for the other processes, and ends this one."""
    if board.joined():
        _ending.acquire()  # A second thread waits here until the process has ended.
        _codes.append(note["code"])
    _print(line)
    if board.joined():
        _limited(lambda: _tell(note))
    os._exit(note["code"])


def _tell(note: dict[str, Any]) -> None:
    """Leaves a note; process 0, which keeps the notes, waits until the others have answered."""
    board.write(f"ended/{board.process()}", json.dumps(note))
    while board.process() == 0 and len(board.read("ended")) <= len(board.others()):
        time.sleep(_LOOK_SECONDS / 10)


def _limited(function: Callable[[], T]) -> T | None:
    """Calls a function in a thread; returns its value, or None if it fails or takes too long."""
    values: list[T] = []

    def call() -> None:
        with contextlib.suppress(Exception):
            values.append(function())

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(_TELL_SECONDS)
    return values[0] if values else None


def _print(line: str) -> None:
    if threading.current_thread() is not threading.main_thread():
        line = f"\n{line}"  # The main thread may have left a progress bar there.
    with contextlib.suppress(OSError):  # The reader of a stream may be gone.
        print(line, file=sys.stderr, flush=True)
        sys.stdout.flush()
