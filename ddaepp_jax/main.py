"""Trains the run that a config describes. The same command again resumes it.

python -m ddaepp_jax.main                               # handwritten digits, on anything
python -m ddaepp_jax.main --config=configs/uvit_cifar.py --workdir=runs/uvit_cifar
python -m ddaepp_jax.main --config=configs/uvit_cifar.py:tiny --config.model.depth=8 --dry_run
python -m ddaepp_jax.main --config=configs/dit_b_imagenet.py --dry_run --topology=v5e:16x16
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.cli.arguments import (
    Parser,
    add_config,
    add_processes,
    config_arguments,
    path,
    seconds,
    start,
)
from ddaepp_jax.cli.start import launch


def main(argv: Sequence[str]) -> None:
    """Trains by the arguments of a command line."""
    args, changes = _parse(argv)
    from ddaepp_jax.config.overrides import config_name, parse_config
    from ddaepp_jax.run.train import train_and_evaluate

    config = parse_config(config_arguments(args, changes))
    start(args)
    if args.topology:
        from ddaepp_jax.run.absent import dry_run

        dry_run(config, args.topology)
        return
    workdir = args.workdir or Path("runs") / config_name(args.config or "uvit_digits")
    train_and_evaluate(
        config,
        workdir,
        dry_run=args.dry_run,
        rollback=args.rollback,
        stuck_timeout=args.stuck_timeout,
    )


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser("ddaepp_jax.main", __doc__)
    add = parser.add_argument
    add_config(parser, "U-ViT on digits")
    add("--workdir", type=path, help="run directory (default: runs/<name of the config>)")
    add(
        "--dry_run",
        action="store_true",
        help="print the config, the parameters, their sharding and the memory, and stop",
    )
    add(
        "--topology",
        help="with --dry_run: a slice of TPUs that need not be present, e.g. v5e:16x16, for which "
        "libtpu compiles; prints the run's cost too",
    )
    add(
        "--rollback",
        action="store_true",
        help="after a loss that was not finite: skip the data from the newest checkpoint up to it",
    )
    add(
        "--stuck_timeout",
        type=seconds,
        default=600.0,
        metavar="SECONDS",
        help="end with exit code 75 when no step has finished for so long, evaluations and saves "
        "left out; 0: never (default: %(default)g)",
    )
    add_processes(parser)
    args, changes = parser.parse_known_args(argv)
    if args.topology and not args.dry_run:
        raise InputError("--topology: nothing can be trained there; add --dry_run")
    return args, changes


if __name__ == "__main__":
    launch(main)
