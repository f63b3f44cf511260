"""The start of a program: JAX, and errors in one line."""

import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from ddaepp_jax.base.errors import InputError, NonFiniteError, SaveError, Stopped


def start_backend(coordinator: str = "", num_processes: int = 1, process_id: int = 0) -> None:
    """Starts JAX, joins the other processes, and turns on the compilation cache; call it once.

    JAX_COMPILATION_CACHE_DIR names another cache directory; if it is empty, the cache is off. The
    cache stays off for several CPU devices: there, JAX 0.10 to 0.12 runs the collectives of a
    program that it reads from the cache in another order on each device, and the devices wait for
    each other forever.

    Args:
      coordinator: "HOST:PORT" joins several processes into one run; "auto" does so on a pod or
        cluster that JAX knows; "" starts a single process.
      num_processes: number of processes, with "HOST:PORT".
      process_id: number of this process, with "HOST:PORT".

    Raises:
      InputError: an argument is wrong.
    """
    if coordinator not in ("", "auto") and not re.fullmatch(r".+:\d+", coordinator):
        raise InputError(f"--coordinator: {coordinator!r} is neither HOST:PORT nor 'auto'")
    if not 0 <= process_id < num_processes:
        raise InputError(
            f"--process_id: {process_id} is not in 0..{num_processes - 1}, the numbers below "
            f"--num_processes={num_processes}; give one of these"
        )
    import jax

    if coordinator == "auto":
        jax.distributed.initialize()
    elif coordinator:
        jax.distributed.initialize(coordinator, num_processes=num_processes, process_id=process_id)
    if jax.default_backend() == "cpu" and jax.device_count() > 1:
        jax.config.update("jax_enable_compilation_cache", False)
    elif "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(caches / "ddaepp_jax" / "xla"))


def launch(program: Callable[[Sequence[str]], None]) -> NoReturn:
    """Runs a program and exits.

    An error that the user can mend is printed as one line on stderr, with exit code 2; a loss that
    is not finite and a checkpoint that cannot be saved too, with exit code 1. The exit code is 130
    after Ctrl-C and 143 after SIGTERM.
    """
    sys.unraisablehook = _unraisable
    signal.signal(signal.SIGTERM, _terminate)
    # Orbax logs the errors that are raised too, with tracebacks.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        program(sys.argv[1:])
    except InputError as error:
        _end(f"error: {error}", 2)
    except (NonFiniteError, SaveError) as error:
        _end(f"error: {error}", 1)
    except Stopped as stopped:
        _end(str(stopped), stopped.exit_code)
    except _Terminated:
        _end("terminated; the same command continues from what was saved", 128 + signal.SIGTERM)
    except KeyboardInterrupt:
        _end("interrupted; the same command continues from what was saved", 130)
    sys.exit(0)


class _Terminated(BaseException):
    """SIGTERM outside of a training, which handles it itself."""


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated


def _end(line: str, exit_code: int) -> NoReturn:
    print(line, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of a failed save, or of a computation, could keep the process for ever.
    os._exit(exit_code)


def _unraisable(event: "sys.UnraisableHookArgs") -> None:
    """Handles an exception in a callback, from which it cannot be raised."""
    if isinstance(event.exc_value, (KeyboardInterrupt, _Terminated)):
        # The signal came in a callback of the garbage collector: send it again.
        again = signal.SIGINT
        if isinstance(event.exc_value, _Terminated):
            again = signal.SIGTERM
        os.kill(os.getpid(), again)
    elif "Event loop is closed" not in str(event.exc_value):  # the rest of a failed save
        sys.__unraisablehook__(event)
