"""How a program starts: its arguments, its backend, and errors in one line."""

import argparse
import ast
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ddaepp_jax.base.errors import InputError, NonFiniteError
from ddaepp_jax.evaluators import RANKS
from ddaepp_jax.run import Run, load


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


def several(kind: type) -> Callable[[str], tuple]:
    """An argument's type: values of a kind with commas between."""

    def parse(text: str) -> tuple:
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not {kind.__name__}s with commas between"
            ) from None

    return parse


def option(text: str) -> tuple[str, Any]:
    """An argument's type: NAME=VALUE, where the value is a Python literal, or else a string."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def add_run(parser: Parser, required: bool = True) -> None:
    """The arguments that say which run, and which of its weights; ``open_run`` opens it."""
    add = parser.add_argument
    add("--workdir", required=required, help="run directory")
    add(
        "--step",
        help=f"of the checkpoint, or the best by an evaluation: {', '.join(RANKS)} (default: the newest)",
    )
    add(
        "--decay",
        type=float,
        help="of the averaged weights, one of the config's ema.decays (default: the first)",
    )
    add(
        "--sigma_rel",
        type=float,
        help="instead of --decay: the relative width of a power-function average, tracked or made from snapshots",
    )


def open_run(args: argparse.Namespace) -> Run:
    """The run that ``add_run``'s arguments name."""
    return load(args.workdir, step=args.step, decay=args.decay, sigma_rel=args.sigma_rel)


def add_sampling(parser: Parser) -> None:
    """The arguments that say how images are sampled; ``sampling`` reads them."""
    add = parser.add_argument
    add(
        "--guidance",
        type=float,
        help="classifier-free guidance scale, 1 is none (default: the config's)",
    )
    add(
        "--guidance_interval",
        type=several(float),
        help="LOW,HIGH: the noise levels that guidance is limited to (default: the config's)",
    )
    add(
        "--guidance_channels",
        type=int,
        help="the first so many channels that guidance is limited to, 0 is all (default: the config's)",
    )
    add(
        "--guide",
        help="run directory of a worse network, for autoguidance (its newest checkpoint, first average)",
    )
    add(
        "--autoguidance",
        type=float,
        default=1.0,
        help="scale of guidance by --guide, 1 is none (1)",
    )
    add(
        "--sampler",
        help="ddim, ddpm or dpmpp_2m; of an EDM run heun; of a flow euler, heun_flow or euler_maruyama "
        "(default: the config's)",
    )
    add(
        "--steps",
        type=int,
        help="of the sampler; heun and heun_flow evaluate the network twice a step (default: the config's)",
    )
    add(
        "--options",
        type=several(option),
        default=(),
        help="of the sampler, e.g. clip=False or s_churn=30,s_max=1 (default: the config's sampling.*)",
    )
    add("--batch_size", type=int, help="(default: the config's)")


def sampling(args: argparse.Namespace) -> dict[str, Any]:
    """What ``add_sampling``'s arguments say, as ``Run.sample`` takes it."""
    names = (
        "guidance",
        "guidance_interval",
        "guidance_channels",
        "autoguidance",
        "sampler",
        "steps",
        "batch_size",
    )
    guide = load(args.guide) if args.guide else None
    return {name: getattr(args, name) for name in names} | {
        "guide": guide,
        "options": dict(args.options),
    }


def start_backend(coordinator: str = "", num_processes: int = 1, process_id: int = 0) -> None:
    """Everything that has to happen before the first computation, once a program.

    The persistent compilation cache is on (JAX_COMPILATION_CACHE_DIR names another place, or none
    by being empty), but not for several CPU devices: a program of theirs that JAX (0.10 to 0.12)
    reads from the cache runs its collectives in another order on each device, and these then wait
    for each other for ever. With a coordinator, "host:port" or "auto" on a pod or cluster that JAX
    knows, the processes join into one run.
    """
    if coordinator not in ("", "auto") and not re.fullmatch(r".+:\d+", coordinator):
        raise InputError(f"--coordinator: {coordinator!r} is neither HOST:PORT nor 'auto'")
    if not 0 <= process_id < num_processes:
        raise InputError(
            f"--process_id: {process_id} is not in 0..{num_processes - 1}, below --num_processes"
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
