"""The start of a program: JAX, and errors in one line."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from ddaepp_jax.base.errors import InputError, NonFiniteError


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

    An error that the user can mend is printed as one line on stderr, with exit code 2.
    """
    try:
        program(sys.argv[1:])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except NonFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from the newest checkpoint", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
