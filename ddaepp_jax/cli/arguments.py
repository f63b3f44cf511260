"""Arguments of programs, and the groups of them that several programs share."""

import argparse
import ast
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ddaepp_jax import __version__, evaluators
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.paths import local_path
from ddaepp_jax.cli.start import start_backend
from ddaepp_jax.sampling.settings import Sampling

if TYPE_CHECKING:
    from ddaepp_jax.run import Run


class Parser(argparse.ArgumentParser):
    """argparse with the program's docstring as help, whose errors are an ``InputError``."""

    def __init__(self, module: str, doc: str) -> None:
        super().__init__(
            prog=f"python -m {module}",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--version", action="version", version=f"ddaepp_jax {__version__}")

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def path(text: str) -> Path:
    """Parses a path on this machine, as an argparse ``type``; ``~`` is the home directory."""
    try:
        return local_path(text, "path")
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("path: ")) from None


def output(text: str) -> Path:
    """Parses a path to write to, as an argparse ``type``; none among the checkpoints of a run."""
    out = path(text)
    for parent in out.absolute().parents:
        is_of_run = (parent.parent / "config.json").is_file()
        if parent.name in ("checkpoints", "snapshots") and is_of_run:
            raise argparse.ArgumentTypeError(
                f"{out} is in {parent}, which is for training alone; give another path"
            )
    return out


def run_directory(text: str) -> str | Path:
    """Parses the place of a run to read, as an argparse ``type``: a path or an address."""
    return text if "://" in text else path(text)


def source(text: str) -> str:
    """Parses a path or the name of a data set, NAME:SPLIT, as an argparse ``type``."""
    return str(path(text))


def number(text: str) -> float:
    """Parses a finite number, as an argparse ``type``."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number; give one, e.g. 1.5")
    return value


def seconds(text: str) -> float:
    """Parses a duration in seconds, 0 or more, as an argparse ``type``."""
    value = number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is negative; give seconds, 0 or more")
    return value


def comma_separated(kind: Callable[[str], Any]) -> Callable[[str], tuple]:
    """Returns an argparse ``type`` that parses comma-separated text to a tuple of ``kind``."""

    def parse(text: str) -> tuple:
        try:
            return tuple(kind(part) for part in text.split(","))
        except (ValueError, argparse.ArgumentTypeError):
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a list of {kind.__name__}s with commas between them"
            ) from None

    return parse


def boolean(text: str) -> bool:
    """Parses True or False, as an argparse ``type``."""
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return text == "True"


def options(text: str) -> dict[str, Any]:
    """Parses NAME=VALUE,.., as an argparse ``type``; a VALUE is a Python literal, or a string."""
    pairs = comma_separated(option)(text)
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise argparse.ArgumentTypeError(f"{name} is given {names.count(name)} times in {text}")
    return dict(pairs)


def option(text: str) -> tuple[str, Any]:
    """Parses NAME=VALUE, for ``options``."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return name, value


def add_config(parser: Parser, default: str) -> None:
    """Adds ``--config``; the parser's unknown arguments override its fields."""
    parser.add_argument(
        "--config",
        metavar="FILE[:VARIANT]",
        help=f"config file (default: {default}); --config.FIELD=VALUE overrides a field",
    )


def config_arguments(args: argparse.Namespace, changes: Sequence[str]) -> list[str]:
    """Returns ``--config`` and its overrides, as ``config.overrides.parse_config`` takes them."""
    return [*([] if args.config is None else [f"--config={args.config}"]), *changes]


def add_size(parser: Parser) -> None:
    """Adds ``--size``; ``size`` reads it."""
    parser.add_argument(
        "--size",
        type=comma_separated(int),
        default=(0, 0),
        help="HEIGHT,WIDTH to crop images to as in ADM (default: as they are)",
    )


def size(args: argparse.Namespace) -> tuple[int, int]:
    """Returns the (height, width) of ``--size``; (0, 0) without it.

    Raises:
      InputError: it is not two positive numbers.
    """
    if len(args.size) != 2 or (any(args.size) and min(args.size) < 1):
        raise InputError(f"--size: {args.size} is wrong; give HEIGHT,WIDTH, two positive numbers")
    return args.size


def add_processes(parser: Parser) -> None:
    """Adds the arguments with which several processes join; ``start`` reads them."""
    add = parser.add_argument
    add(
        "--coordinator",
        default="",
        metavar="HOST:PORT",
        help="join several processes into one run; 'auto' on a pod or a cluster",
    )
    add("--num_processes", type=int, default=1, help="number of processes, with HOST:PORT")
    add("--process_id", type=int, default=0, help="number of this process, from 0, with HOST:PORT")
    add(
        "--heartbeat_timeout",
        type=int,
        default=60,
        metavar="SECONDS",
        help="take a process that gives no sign for so long for dead, and end with exit code 75 "
        "(default: %(default)s)",
    )


def start(args: argparse.Namespace) -> None:
    """Starts JAX with the processes that ``add_processes``'s arguments name; call it once."""
    start_backend(args.coordinator, args.num_processes, args.process_id, args.heartbeat_timeout)


def add_run(parser: Parser, required: bool = True) -> None:
    """Adds the arguments that choose a run and its weights; ``open_run`` reads them."""
    add = parser.add_argument
    ranks = ", ".join(evaluators.better())
    add(
        "--workdir",
        type=run_directory,
        required=required,
        help="run directory; or a zip file or an address such as gs://bucket/run, with --out",
    )
    add(
        "--step",
        help="step of the checkpoint, or the name of an evaluation for the checkpoint that it "
        f"ranks best: {ranks} (default: the newest)",
    )
    add(
        "--decay",
        type=number,
        help="average of the weights to load (default: the first of ema.decays)",
    )
    add(
        "--sigma_rel",
        type=number,
        help="instead of --decay: relative width of a power-function average, either tracked or "
        "combined from snapshots",
    )


def open_run(args: argparse.Namespace) -> "Run":
    """Opens the run that ``add_run``'s arguments choose, in a program that has ``--out``.

    Raises:
      InputError: results would be written into a zip file or to an address, or see ``load``.
    """
    from ddaepp_jax.run import load
    from ddaepp_jax.run.local_copy import is_elsewhere

    if args.out is None and is_elsewhere(args.workdir):
        raise InputError(
            f"--out: none, and nothing is written to {args.workdir}; give a path on a local disk"
        )
    return load(args.workdir, step=args.step, decay=args.decay, sigma_rel=args.sigma_rel)


def add_sampling(parser: Parser) -> None:
    """Adds the arguments that override the config's sampling; ``sampling`` reads them."""
    add = parser.add_argument
    for field in _overrides():
        kinds = {float: number, tuple[float, ...]: comma_separated(number)}
        kind = kinds.get(field.type, field.type)
        add(f"--{field.name}", type=kind, help=f"{field.metadata['help']} (default: the config's)")
    add(
        "--options",
        type=options,
        default={},
        help="options of the sampler, e.g. clip=False or s_churn=30,s_max=1 "
        "(default: the config's)",
    )
    add(
        "--guide",
        type=run_directory,
        help="run directory of a worse network, for autoguidance; its newest checkpoint and first "
        "average are used",
    )
    add(
        "--autoguidance",
        type=number,
        default=1.0,
        help="scale of guidance by --guide; 1 is none (1)",
    )


def sampling(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the values of ``add_sampling``'s arguments, as ``Run.sample`` takes them."""
    from ddaepp_jax.run import load

    return {
        **{field.name: getattr(args, field.name) for field in _overrides()},
        "options": args.options,
        "guide": load(args.guide) if args.guide else None,
        "autoguidance": args.autoguidance,
    }


def _overrides() -> list[dataclasses.Field]:
    """Returns the fields of ``Sampling`` that are arguments."""
    return [field for field in dataclasses.fields(Sampling) if "help" in field.metadata]
