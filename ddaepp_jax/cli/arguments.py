"""Arguments of programs, and the groups of them that several programs share."""

import argparse
import ast
import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ddaepp_jax import evaluators
from ddaepp_jax.base.errors import InputError
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

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def comma_separated(kind: type) -> Callable[[str], tuple]:
    """Returns an argparse ``type`` that parses comma-separated text to a tuple of ``kind``."""

    def parse(text: str) -> tuple:
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a list of {kind.__name__}s with commas between them"
            ) from None

    return parse


def boolean(text: str) -> bool:
    """Parses True or False, as an argparse ``type``."""
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return text == "True"


def option(text: str) -> tuple[str, Any]:
    """Parses NAME=VALUE, as an argparse ``type``; VALUE is a Python literal, or else a string."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
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


def add_run(parser: Parser, required: bool = True) -> None:
    """Adds the arguments that choose a run and its weights; ``open_run`` reads them."""
    add = parser.add_argument
    ranks = ", ".join(evaluators.better())
    add("--workdir", required=required, help="run directory")
    add(
        "--step",
        help="step of the checkpoint, or the name of an evaluation for the checkpoint that it "
        f"ranks best: {ranks} (default: the newest)",
    )
    add(
        "--decay",
        type=float,
        help="average of the weights to load (default: the first of ema.decays)",
    )
    add(
        "--sigma_rel",
        type=float,
        help="instead of --decay: relative width of a power-function average, either tracked or "
        "combined from snapshots",
    )


def open_run(args: argparse.Namespace) -> "Run":
    """Opens the run that ``add_run``'s arguments choose."""
    from ddaepp_jax.run import load

    return load(args.workdir, step=args.step, decay=args.decay, sigma_rel=args.sigma_rel)


def add_sampling(parser: Parser) -> None:
    """Adds the arguments that override the config's sampling; ``sampling`` reads them."""
    add = parser.add_argument
    for field in _overrides():
        kind = comma_separated(float) if field.type == tuple[float, ...] else field.type
        add(f"--{field.name}", type=kind, help=f"{field.metadata['help']} (default: the config's)")
    add(
        "--options",
        type=comma_separated(option),
        default=(),
        help="options of the sampler, e.g. clip=False or s_churn=30,s_max=1 "
        "(default: the config's)",
    )
    add(
        "--guide",
        help="run directory of a worse network, for autoguidance; its newest checkpoint and first "
        "average are used",
    )
    add(
        "--autoguidance",
        type=float,
        default=1.0,
        help="scale of guidance by --guide; 1 is none (1)",
    )


def sampling(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the values of ``add_sampling``'s arguments, as ``Run.sample`` takes them."""
    from ddaepp_jax.run import load

    return {
        **{field.name: getattr(args, field.name) for field in _overrides()},
        "options": dict(args.options),
        "guide": load(args.guide) if args.guide else None,
        "autoguidance": args.autoguidance,
    }


def _overrides() -> list[dataclasses.Field]:
    """Returns the fields of ``Sampling`` that are arguments."""
    return [field for field in dataclasses.fields(Sampling) if "help" in field.metadata]
