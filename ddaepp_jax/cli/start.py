"""The start of a program: JAX, and errors in one line."""

import contextlib
import io
import logging
import os
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from ddaepp_jax.base import board, ending
from ddaepp_jax.base.ending import end_process, end_together, end_without_peers, lost_peer
from ddaepp_jax.base.errors import InputError, NonFiniteError, SaveError, Stopped, first_line
from ddaepp_jax.base.paths import user_cache
from ddaepp_jax.base.stop import SIGNALS, Signals
from ddaepp_jax.cli.huge_pages import restart_with_huge_pages


def start_backend(
    coordinator: str = "", num_processes: int = 1, process_id: int = 0, heartbeat_timeout: int = 60
) -> None:
    """Starts JAX, joins the other processes, and turns on the compilation cache; call it once.

    Of several processes, only process 0 prints on stdout from here on.

    JAX_COMPILATION_CACHE_DIR names another cache directory; if it is empty, the cache is off. It is
    off where no directory can be written, too, and for several CPU devices: there, JAX 0.10 to 0.12
    runs the collectives of a program that it reads from the cache in another order on each device,
    and the devices wait for each other forever.

    Args:
      coordinator: "HOST:PORT" joins several processes into one run; "auto" does so on a pod or
        cluster that JAX knows; "" starts a single process.
      num_processes: number of processes, with "HOST:PORT".
      process_id: number of this process, with "HOST:PORT".
      heartbeat_timeout: seconds after which a process that gives no sign is taken for dead, which
        ends the others with exit code 75.

    Raises:
      InputError: an argument is wrong.
    """
    check_processes(coordinator, num_processes, process_id)
    if heartbeat_timeout < 1:
        raise InputError(f"--heartbeat_timeout: {heartbeat_timeout} is below 1; give more seconds")
    import jax

    if jax.config.jax_disable_jit:
        raise InputError("JAX_DISABLE_JIT: the programs compile their steps; unset this variable")
    if coordinator:
        own = dict(coordinator_address=coordinator, num_processes=num_processes)
        own = {} if coordinator == "auto" else own | {"process_id": process_id}
        # Its handler of SIGTERM would take the place of ``Signals``.
        jax.config.update("jax_enable_preemption_service", False)
        ending.report_aborts()
        try:
            jax.distributed.initialize(**own, heartbeat_timeout_seconds=heartbeat_timeout)
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"--coordinator: {coordinator!r} joins no processes ({first_line(error)}); give "
                "the HOST:PORT of process 0"
            ) from error
        board.join()
        ending.watch()
        if jax.process_index():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Process 0 prints for all.
    if jax.default_backend() == "cpu" and jax.device_count() > 1:
        jax.config.update("jax_enable_compilation_cache", False)
    elif "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        with contextlib.suppress(OSError, RuntimeError):  # no home, or none that can be written
            directory = user_cache() / "xla"
            directory.mkdir(parents=True, exist_ok=True)
            if os.access(directory, os.W_OK):
                jax.config.update("jax_compilation_cache_dir", str(directory))


def check_processes(coordinator: str, num_processes: int, process_id: int) -> None:
    """Refuses arguments of ``start_backend`` that are wrong by themselves or together.

    Raises:
      InputError: an argument is wrong.
    """
    if num_processes != 1 and ":" not in coordinator:
        raise InputError(
            f"--num_processes: {num_processes} needs --coordinator=HOST:PORT, where the processes "
            "meet; give it, or leave this out"
        )
    if not 0 <= process_id < num_processes:
        raise InputError(
            f"--process_id: {process_id} is not in 0..{num_processes - 1}, the numbers below "
            f"--num_processes={num_processes}; give one of these"
        )
    _check_coordinator(coordinator)


def _check_coordinator(coordinator: str) -> None:
    """Refuses an address that is not HOST:PORT, or whose host is unknown."""
    if coordinator in ("", "auto"):
        return
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(
            f"--coordinator: {coordinator!r} is neither HOST:PORT, with a port in 1..65535, nor "
            "'auto'"
        )
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except (OSError, UnicodeError):
        raise InputError(
            f"--coordinator: {coordinator!r} names no known host; give the address of process 0"
        ) from None


def launch(program: Callable[[Sequence[str]], None]) -> NoReturn:
    """Runs a program and exits.

    An error that the user can mend is printed as one line on stderr, with exit code 2. Exit code 1
    stands for a loss that is not finite, a save that failed, and a lack of memory. Ctrl-C ends a
    program at once with exit code 130, SIGTERM with 143, and the end of its terminal (SIGHUP) with
    129; a training, and a loop that stores features, first save their state. Exit code 75 stands
    for another process that died, or a training that is stuck. Of several processes, all end with
    the code of the first.
    """
    restart_with_huge_pages()
    _open_streams()
    sys.unraisablehook = _unraisable
    # Orbax logs the errors that it raises too, with tracebacks.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    with Signals(_interrupted):
        try:
            try:
                program(sys.argv[1:])
            finally:
                sys.stdout.flush()
        except Stopped as stopped:
            end_together(str(stopped), stopped.exit_code)
        except Exception as error:
            if board.joined():
                _end_all(error)
            line, code = _describe(error)
            if not line:
                raise
            # Threads of a save could keep the process, unless its end was foreseen.
            if not isinstance(error, InputError | NonFiniteError):
                end_process(line, code)
            print(line, file=sys.stderr)
            sys.exit(code)
    sys.exit(0)


def _describe(error: Exception) -> tuple[str, int]:
    """Returns the line and the exit code of an error; the line of a bug is empty."""
    match error:
        case InputError():
            return f"error: {error}", 2
        case NonFiniteError() | SaveError():
            return f"error: {error}", 1
        case BrokenPipeError():
            return "error: nobody reads the output any more; what was saved before is good", 1
        case OSError():  # e.g. a full disk, anywhere
            gone = isinstance(error, FileNotFoundError)  # without a name, as os.getcwd raises it
            where = error.filename or ("the current directory" if gone else "a file")
            reason = error.strerror or first_line(error)
            return f"error: {where}: {reason}; what was saved before is good", 1
        case MemoryError() | RuntimeError() | ValueError() | AssertionError():
            if _jax_cannot_start(error):
                return _start_error(first_line(error)), 2
            if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
                mend = "use a smaller batch, smaller images or a smaller network"
                return f"error: out of memory ({first_line(error)}); {mend}", 1
    return "", 1


def _end_all(error: Exception) -> NoReturn:
    """Ends one of several processes, and so all of them, with the line of an error."""
    line, code = _describe(error)
    if lost_peer(error) and not isinstance(error, InputError):
        end_without_peers(first_line(error))
    if not line:
        traceback.print_exception(error)
        line = f"error: {type(error).__name__} ({first_line(error)}); its traceback is above"
    end_process(line, code)


def _open_streams() -> None:
    """Opens the standard streams that are closed, so that no other file takes their numbers.

    Characters that an output has no code for are escaped.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))
        elif number and isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _jax_cannot_start(error: Exception) -> bool:
    """Whether JAX raised an error of its settings, when it was imported, or of its devices."""
    last = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return last.parts[-3:] in (("jax", "_src", "config.py"), ("jax", "_src", "xla_bridge.py"))


def _start_error(reason: str) -> str:
    """Returns the line that names the variables of the environment with which JAX cannot start."""
    names = sorted(name for name in os.environ if name.startswith("JAX_"))
    if not names:
        return f"error: JAX finds no device ({reason}); set JAX_PLATFORMS=cpu to use the CPU"
    given = ", ".join(f"{name}={os.environ[name]}" for name in names)
    return f"error: {given}: JAX does not start ({reason}); change or unset them"


def _interrupted(number: int) -> NoReturn:
    line = f"{SIGNALS[number]}; the same command continues from what was saved"
    end_process(line, 128 + number)


def _unraisable(event: "sys.UnraisableHookArgs") -> None:
    """Reports an exception in a callback, unless it is the rest of a failed save or archive."""
    failed = isinstance(event.exc_value, OSError | ValueError)
    of_archive = failed and "ZipFile" in repr(event.object)
    if not (of_archive or "Event loop is closed" in str(event.exc_value)):
        sys.__unraisablehook__(event)
