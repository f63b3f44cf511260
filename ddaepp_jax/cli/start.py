"""The start of a program: JAX, and errors in one line."""

import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from ddaepp_jax.base.errors import InputError, NonFiniteError, SaveError, Stopped, first_line
from ddaepp_jax.base.stop import SIGNALS, Signals, end_process


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


_SMALLER = "use a smaller batch, images of fewer pixels or a smaller network"


def launch(program: Callable[[Sequence[str]], None]) -> NoReturn:
    """Runs a program and exits.

    An error that the user can mend is printed as one line on stderr, with exit code 2. Exit code 1
    stands for a loss that is not finite, a save that failed, and a lack of memory. Ctrl-C ends a
    program at once with exit code 130, and SIGTERM with 143; a training first saves its state.
    """
    sys.unraisablehook = _unraisable
    # Orbax logs the errors that it raises too, with tracebacks.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    with Signals(_interrupted):
        try:
            program(sys.argv[1:])
        except InputError as error:
            end_process(f"error: {error}", 2)
        except (NonFiniteError, SaveError) as error:
            end_process(f"error: {error}", 1)
        except Stopped as stopped:
            end_process(str(stopped), stopped.exit_code)
        except OSError as error:  # e.g. a full disk, anywhere
            where = error.filename or "a file"
            reason = error.strerror or first_line(error)
            end_process(f"error: {where}: {reason}; what was saved before is good", 1)
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            mend = "use a smaller batch, smaller images or a smaller network"
            end_process(f"error: out of memory ({first_line(error)}); {mend}", 1)
    sys.exit(0)


def _interrupted(number: int) -> NoReturn:
    line = f"{SIGNALS[number]}; the same command continues from what was saved"
    end_process(line, 128 + number)


def _unraisable(event: "sys.UnraisableHookArgs") -> None:
    """Reports an exception in a callback, unless it is the rest of a failed save."""
    if "Event loop is closed" not in str(event.exc_value):
        sys.__unraisablehook__(event)
