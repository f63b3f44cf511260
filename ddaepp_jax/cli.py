"""How a program starts: its arguments, its backend, and errors in one line."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from ddaepp_jax.errors import InputError, NonFiniteError


class Parser(argparse.ArgumentParser):
    """argparse with the module's docstring as help, and errors like everybody else's."""

    def __init__(self, module: str, doc: str) -> None:
        super().__init__(
            prog=f"python -m {module}",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def parse_config(argv: Sequence[str]) -> ConfigDict:
    """The config of ``--config=FILE[:VARIANT]`` (default: digits) with its overrides ``--config.FIELD=VALUE``."""
    default = str(Path(__file__).with_name("config.py"))
    values = flags.FlagValues()
    argv = ["program", *argv]
    try:
        holder = config_flags.DEFINE_config_file("config", default, flag_values=values, sys_argv=argv)
        rest = values(argv)
        config = holder.value
    except FileNotFoundError as error:
        raise InputError(f"--config: no file {error.filename}") from None
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"--config: {' '.join(str(error).split())}") from error
    if rest[1:]:
        raise InputError(f"{rest[1]}: not an argument of this program; see --help")
    return config


def start_backend(coordinator: str = "", num_processes: int = 1, process_id: int = 0) -> None:
    """Everything that has to happen before the first computation, once a program.

    The persistent compilation cache is on (JAX_COMPILATION_CACHE_DIR names another place, or none by being empty).
    With a coordinator, "host:port" or "auto" on a pod or cluster that JAX knows, the processes join into one run.
    """
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "ddaepp_jax" / "xla"))
    if coordinator == "auto":
        jax.distributed.initialize()
    elif coordinator:
        jax.distributed.initialize(coordinator, num_processes=num_processes, process_id=process_id)


def launch(program: Callable[[Sequence[str]], None]) -> NoReturn:
    """Run a program: what the user can mend is one line on stderr and exit code 2."""
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
