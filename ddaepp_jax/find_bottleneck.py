"""Chooses the block to condition on, by the lowest denoising loss of short runs.

    python -m ddaepp_jax.find_bottleneck --config=configs/uvit_cifar.py --steps=1000 --seeds=0,1,2

Every candidate is trained from every seed, by the config with that seed, `model.bottleneck` and
`train.steps`; warm-up takes a fifth of the steps at most, so that a short run learns. Runs of one
seed have the same data, noise and initial values. The winner need not be the block that probes
best. It is named only if its gap to every other exceeds the 95 % interval of chance over the seeds
and a thousandth of the loss; otherwise the result is a tie. The same command again continues where
it stopped, and takes more seeds or candidates. The directory gets short_run.json (the
config), curves.jsonl, bottleneck.json and curves.png.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ddaepp_jax.cli.arguments import (
    Parser,
    add_config,
    add_processes,
    comma_separated,
    config_arguments,
    path,
    start,
)
from ddaepp_jax.cli.start import launch


def main(argv: Sequence[str]) -> None:
    """Searches by the arguments of a command line."""
    args, overrides = _parse(argv)
    from ddaepp_jax.config.overrides import config_name, parse_config
    from ddaepp_jax.reporting.bottleneck import table
    from ddaepp_jax.search.decision import advice
    from ddaepp_jax.search.search import search

    config = parse_config(config_arguments(args, overrides))
    start(args)
    name = args.config or "uvit_digits"
    workdir = args.workdir or Path("runs") / f"{config_name(name)}_bottleneck"
    decision = search(
        config, workdir, candidates=args.candidates, steps=args.steps, seeds=args.seeds, name=name
    )
    print(f"\n{decision['steps']} steps a run, {decision['warmup_steps']} of them warm-up\n")
    print(f"{table(decision)}\n\n{advice(decision)}")
    print(
        f"\nlook at {workdir}/curves.png; all numbers are in {workdir}/bottleneck.json and "
        "curves.jsonl"
    )


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser("ddaepp_jax.find_bottleneck", __doc__)
    add = parser.add_argument
    add_config(parser, "U-ViT on digits")
    add(
        "--candidates",
        type=comma_separated(str),
        default=(),
        help="names of blocks, with commas (default: all but the last block; of a DiT all)",
    )
    add(
        "--steps",
        type=int,
        default=1000,
        help="steps of a run (1000, or the config's own if they are fewer)",
    )
    add("--seeds", type=comma_separated(int), default=(0, 1, 2), help="seeds, with commas (0,1,2)")
    add(
        "--workdir",
        type=path,
        help="where the results go (default: runs/<config's name>_bottleneck)",
    )
    add_processes(parser)
    return parser.parse_known_args(argv)


if __name__ == "__main__":
    launch(main)
