"""Measures the error of weight averages made from snapshots, by width and number of snapshots.

    python benchmarks/posthoc_ema.py --steps=2000

One run of a config tracks averages of many widths, and saves snapshots of the two usual widths,
0.05 and 0.10. Its learning rate is constant, so that averages differ from the last weights. After
the run, every tracked average is made from the snapshots of these two: from all, and from every
second, fourth and eighth snapshot.

The error is |made - tracked| / |tracked - last| over all parameters of the network: a fraction of
the distance between the average and the last parameters. A row also has the same error of the
nearer of the two saved averages without any combination, the relative error |made - tracked| /
|tracked|, and the error of the profile, which is known without training. Rows go to
``--out``.jsonl, the plot to ``--out``.png.
"""

import functools
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from machine import machine
from matplotlib import rc_context
from matplotlib.figure import Figure
from tabulate import tabulate

from ddaepp_jax import load
from ddaepp_jax.base import parallel
from ddaepp_jax.cli.arguments import Parser
from ddaepp_jax.cli.start import launch, start_backend
from ddaepp_jax.config.overrides import parse_config
from ddaepp_jax.reporting import plots
from ddaepp_jax.run.train import train_and_evaluate
from ddaepp_jax.training import posthoc

KEPT = (0.05, 0.1)
WIDTHS = (0.015, 0.02, 0.03, 0.04, *KEPT[:1], 0.06, 0.07, 0.085, *KEPT[1:], 0.12, 0.15, 0.2, 0.25)
SNAPSHOTS = (5, 10, 20, 40)  # Each number divides the last.


def distance(one: Any, other: Any = None) -> float:
    """Returns the L2 norm, in float64, of a tree of arrays or of the difference of two trees."""
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), one)
    if other is not None:
        wide = jax.tree.map(lambda a, b: a - np.asarray(b, np.float64), wide, other)
    return float(np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(wide))))


def measure(
    workdir: Path, counts: Sequence[int] = SNAPSHOTS, kept: Sequence[float] = KEPT
) -> list[dict[str, Any]]:
    """Returns a row for each number of snapshots and each width that a finished run tracked."""
    rows = []
    run = load(workdir)
    total = run.step
    every = run.config.ema.snapshot_every
    last = run.state().params["network"]
    replicated = parallel.replicated(run.mesh)
    posthoc.restore_networks = functools.cache(posthoc.restore_networks)  # Read each file once.
    tracked = {width: load(workdir, sigma_rel=width).params for width in run.config.ema.sigma_rel}
    for count in counts:
        stride = total // count
        if stride % every or total % count:
            raise ValueError(
                f"{total} steps with a snapshot every {every} have no {count} evenly spaced ones"
            )
        snapshots = [(step, width) for step in range(stride, total + 1, stride) for width in kept]
        for sigma_rel, average in tracked.items():
            weights, profile_error = posthoc.fit(*zip(*snapshots, strict=True), total, sigma_rel)
            weight_of = dict(zip(snapshots, weights.tolist(), strict=True))
            combined = posthoc.combine(workdir / "snapshots", weight_of, replicated)
            error = distance(combined, average)
            moved = distance(average, last)
            rows.append(
                {
                    "snapshots": count,
                    "sigma_rel": sigma_rel,
                    "error": error / moved,
                    "nearest": min(distance(tracked[width], average) for width in kept) / moved,
                    "relative": error / distance(average),
                    "profile_error": profile_error,
                    "sum_of_weights_abs": float(np.abs(weights).sum()),
                }
            )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table in Markdown of the errors in percent.

    A line is a width, a column a number of snapshots; the last column is the error of the nearer of
    the two saved averages.
    """
    counts = sorted({row["snapshots"] for row in rows})
    lines = []
    for width in sorted({row["sigma_rel"] for row in rows}):
        by_count = {row["snapshots"]: row for row in rows if row["sigma_rel"] == width}
        errors = [by_count[n]["error"] for n in counts] + [by_count[counts[0]]["nearest"]]
        lines.append([f"{width:g}", *(f"{100 * error:.2g}" for error in errors)])
    headers = ["sigma_rel", *(f"{n} snapshots" for n in counts), "the nearest of the two"]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


@rc_context(plots.STYLE)
def plot(rows: Sequence[Mapping[str, Any]], kept: Sequence[float] = KEPT) -> Figure:
    """Draws the error by width, with a line for each number of snapshots.

    Vertical lines mark the two widths that are saved.
    """
    figure = Figure(figsize=(plots.WIDTH, 3.6))
    axes = figure.subplots()
    counts = sorted({row["snapshots"] for row in rows})
    # At the kept widths the error is rounding.
    others = [row for row in rows if row["sigma_rel"] not in kept]

    def line(count: int, name: str) -> list[list[float]]:
        return [[row["sigma_rel"], row[name]] for row in others if row["snapshots"] == count]

    axes.plot(
        *np.transpose(line(counts[0], "nearest")),
        "--",
        color="#666666",
        lw=1,
        label="the nearest of the two",
    )
    for count, colour in zip(counts, plots.COLOURS, strict=False):
        axes.plot(
            *np.transpose(line(count, "error")),
            "o-",
            ms=3.5,
            lw=1.5,
            color=colour,
            label=f"{count} snapshots",
        )
    for width in kept:
        axes.axvline(width, color="#666666", ls=":", lw=1)
    axes.set(xscale="log", yscale="log", xlabel="sigma_rel of the average")
    axes.set_ylabel("|made - tracked| / |tracked - last|")
    ticks = [width for width in (0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.25) if others]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    return figure


def program(argv: Sequence[str]) -> None:
    parser = Parser("benchmarks.posthoc_ema", __doc__)
    add = parser.add_argument
    add(
        "--config",
        default="configs/uvit_digits.py",
        metavar="FILE[:VARIANT]",
        help="config (configs/uvit_digits.py); --config.FIELD=VALUE changes a field",
    )
    add(
        "--steps",
        type=int,
        default=2000,
        help=f"steps of the run, a multiple of {SNAPSHOTS[-1]} (2000)",
    )
    add(
        "--workdir", type=Path, help="run directory, which is kept (default: a temporary directory)"
    )
    add(
        "--out",
        type=Path,
        default=Path(__file__).parent / "results" / "posthoc_ema",
        help="path of the results, without suffix",
    )
    args, rest = parser.parse_known_args(argv)
    fields = {
        "train.steps": args.steps,
        "ema.sigma_rel": WIDTHS,
        "ema.snapshot_every": args.steps // SNAPSHOTS[-1],
        "optimizer.schedule": "constant",
    }
    fields |= {
        f"evals.{name}.every": 0 for name in ("heldout_loss", "samples", "probe", "knn", "features")
    }
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    config = parse_config([f"--config={args.config}", *overrides, *rest])
    start_backend()
    with tempfile.TemporaryDirectory() as temporary:
        workdir = args.workdir or Path(temporary) / "run"
        start = time.perf_counter()
        train_and_evaluate(config, workdir)
        rows = measure(workdir)
    common = {
        "config": args.config,
        "overrides": rest,
        "steps": args.steps,
        "kept": KEPT,
        "seconds": round(time.perf_counter() - start),
        **machine(),
    }
    args.out.with_suffix(".jsonl").write_text(
        "".join(json.dumps(row | common) + "\n" for row in rows)
    )
    plot(rows).savefig(args.out.with_suffix(".png"), dpi=160)
    print(
        f"\n{table(rows)}\n\nerrors in percent; look at {args.out}.png; "
        f"rows are in {args.out}.jsonl"
    )


if __name__ == "__main__":
    launch(program)
