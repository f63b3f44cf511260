"""Probes a run's features by linear heads and nearest neighbours, by layer and noise level.

    python -m ddaepp_jax.linear_probe --workdir=runs/digits
    python -m ddaepp_jax.linear_probe --workdir=runs/uvit_cifar --protocol=online --layers=out_1 \\
        --levels=0.001,0.011

Protocols: `cached` computes each image's features once and trains the heads on those; `online`
draws noise, crops and mirroring anew at every step, as DDAE does; `imagenet` is the recipe of
l-DAE. A noise level costs one forward pass for each image (`cached`), or for each image and epoch
(`online`, `imagenet`), whatever the number of layers; two more passes over at most 2,048 images
give the diagnostics. Beside the accuracies, the table shows how far two views of an image agree
(alignment) and how much of their space the features fill (uniformity, effective rank and spread).

The best layer, level and learning rate are chosen on images held out from the training split; with
--held_out=0 they are chosen on the test split, as papers do. The choice is stored with the run, in
probe/best.json, unless the one there was made among more layers and levels of the same weights.
With --out, nothing is written into the run. The same command again resumes. Settings that are not
given are those of the run's config and the protocol.
"""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.files import replace, write_json
from ddaepp_jax.cli.arguments import (
    Parser,
    add_processes,
    add_run,
    boolean,
    comma_separated,
    number,
    open_run,
    output,
    path,
    start,
)
from ddaepp_jax.cli.start import launch
from ddaepp_jax.probing.protocols import PROTOCOLS

if TYPE_CHECKING:
    from ddaepp_jax import Run
    from ddaepp_jax.data.datasets import Dataset
    from ddaepp_jax.probing.settings import Settings, TrainedNetwork

# Arguments that override settings: the type and the help text.
OVERRIDES = {
    "protocol": (str, f"{', '.join(PROTOCOLS)} (default: the config's probe.protocol)"),
    "layers": (comma_separated(str), "names with commas between them (default: all)"),
    "levels": (
        comma_separated(number),
        "noise levels with commas between them (default: the process's)",
    ),
    "held_out": (number, "share of the training split that chooses; with 0 the test split chooses"),
    "knn": (int, "number of nearest neighbours; 0: none"),
    "epochs": (int, "epochs of the heads"),
    "batch_size": (int, "batch size of the heads"),
    "learning_rates": (
        comma_separated(number),
        "learning rates with commas between them; the best counts",
    ),
    "standardise": (boolean, "True scales features to mean 0 and variance 1"),
    "l2": (number, "weight of |W|^2 / 2"),
    "seed": (int, "seed of noise, crops and order (default: 0)"),
}

SUFFIXES = (".json", ".csv", "-grid.png", "-layers.png")  # of --out's files


def main(argv: Sequence[str]) -> None:
    args = _parse(argv)
    overrides = {name: vars(args)[name] for name in OVERRIDES if vars(args)[name] is not None}
    start(args)
    run = open_run(args)
    if args.data_dir is not None:
        run.config.data.data_dir = str(args.data_dir)
    if args.eval_split is not None:
        run.config.data.eval_split = args.eval_split
    chosen = settings(run, **overrides)
    own = run.workdir / "probe" / f"step{run.step}-{run.average}-{chosen.tag}"
    out = Path(args.out or own)

    from ddaepp_jax.base.processes import in_first
    from ddaepp_jax.reporting import probes

    try:
        in_first(lambda: _check_out(out))
        results = probe(run, chosen, out)
        in_first(lambda: _write_figures(results, out))
        if not args.out:
            in_first(lambda: _choose(run, results, out))
    except BrokenPipeError:
        raise  # It is of the terminal.
    except OSError as error:
        raise InputError(f"--out: cannot write {out} ({error.strerror}); give another") from None
    print(f"\n{probes.table(results)}")
    print(f"\n* chosen by linear heads on {results['data']['chosen on']}")
    print(f"look at {out}-grid.png and {out}-layers.png; all numbers are in {out}.json and .csv")
    print("\nThe layer and noise level that all heads together choose, on the same images:\n")
    print(probes.summary(results))


def _file(out: Path, suffix: str) -> Path:
    return out.with_name(out.name + suffix)


def _check_out(out: Path) -> None:
    """Refuses a path whose files could not be written at the end, and makes their directory."""
    if not out.name:
        raise InputError(f"--out: {out} has no last part, with which the files' names begin")
    for suffix in SUFFIXES:
        if _file(out, suffix).is_dir():
            raise InputError(f"--out: {_file(out, suffix)} is a folder; give another path")
    out.parent.mkdir(parents=True, exist_ok=True)


def _write_figures(results: dict[str, Any], out: Path) -> None:
    from ddaepp_jax.reporting import probes

    for name, figure in probes.figures(results).items():
        picture = io.BytesIO()
        figure.savefig(picture, dpi=160)
        replace(_file(out, f"-{name}.png"), picture.getvalue())


def _choose(run: "Run", results: dict[str, Any], out: Path) -> None:
    """Stores the choice with the run.

    A choice among more features of the same weights stays.
    """
    file = run.workdir / "probe" / "best.json"
    try:
        before = run.probed or {}
    except InputError:
        before = {}  # A damaged file is replaced.
    compared = len(results["rows"]) - 1  # without the pixels
    weights = results["settings"]["weights"]
    if before.get("compared", 0) > compared and before.get("weights", weights) == weights:
        print(
            f"{file} keeps the choice of {before.get('of')}, which is among {before['compared']} "
            f"features rather than {compared}; remove it to replace it"
        )
        return
    own = {"step": run.step, "average": run.average, "weights": weights}
    write_json(file, {**results["best"], "compared": compared, "of": str(out), **own})


def settings(run: "Run", protocol: str | None = None, **overrides: Any) -> "Settings":
    """Returns the settings of a probe: those of the run's config, with overrides.

    See ``ddaepp_jax.probing.settings.settings`` for the overrides and errors.
    """
    from ddaepp_jax.probing.settings import settings

    return settings(trained(run), run.config.probe, protocol, **overrides)


def probe(run: "Run", settings: "Settings", out: Path) -> dict[str, Any]:
    """Probes a run on its data; see ``ddaepp_jax.probing.probe.probe``.

    Raises:
      InputError: as there, or the split that tests holds training images.
    """
    from ddaepp_jax.base.processes import together
    from ddaepp_jax.probing.probe import probe

    train, test = together(lambda: _data(run))
    print(f"heads learn from: {train.described}\nand are tested on: {test.described}")
    device_bytes = run.config.data.device_bytes
    return probe(trained(run), train, test, settings, out, device_bytes)


def _data(run: "Run") -> tuple["Dataset", "Dataset"]:
    """Opens the split that trains heads and the split that tests, which share no image."""
    from ddaepp_jax import build

    train = build.dataset(run.config, run.config.data.split)
    test = build.held_out(run.config, train)
    if overlap := build.overlap(train, test):
        raise InputError(overlap)
    return train.clean(), test.clean()


def trained(run: "Run") -> "TrainedNetwork":
    """Returns a run's network and weights, as probes take them."""
    from ddaepp_jax.probing.settings import TrainedNetwork

    weights = {"step": run.step, "decay": run.decay, "weights": run.weights_hash}
    if run.sigma_rel is not None:
        weights["sigma_rel"] = run.sigma_rel
    return TrainedNetwork(
        run.module,
        run.process,
        run.params,
        run.mesh,
        run.image_shape,
        run.config.data.flip,
        run.workdir.name,
        weights,
        run.pictures is not None,
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("ddaepp_jax.linear_probe", __doc__)
    add_run(parser)
    for name, (kind, text) in OVERRIDES.items():
        parser.add_argument(f"--{name}", type=kind, help=text)
    parser.add_argument("--eval_split", help="split that tests (the run's data.eval_split)")
    parser.add_argument(
        "--data_dir", type=path, help="folder of the data, if it is not where it was"
    )
    parser.add_argument(
        "--out",
        type=output,
        help="path without suffix (default: WORKDIR/probe/step<STEP>-<AVERAGE>-<PROTOCOL>)",
    )
    add_processes(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    launch(main)
