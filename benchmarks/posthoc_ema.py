"""How near averages made from snapshots come to the same averages tracked in training, by width and
snapshots.

    python benchmarks/posthoc_ema.py --steps=2000

One run of a config, at a constant learning rate, so that averages have something to do, tracks
averages of many widths and keeps snapshots of the two that are usual, 0.05 and 0.10. At its end
each other one is made of these two: of all snapshots, every second, every fourth, every eighth. The
  error is |made - tracked| / |tracked - last|, over all
parameters of the network: as a part of what the average does to the last parameters. Beside it are
  the same for the
nearer of the two, as it is; |made - tracked| / |tracked|; and the error of the profile, which takes
no training to know. Rows go to ``--out``.jsonl, the plot to ``--out``.png.
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
SNAPSHOTS = (5, 10, 20, 40)  # each divides the last


def distance(one: Any, other: Any = None) -> float:
    """L2 norm of a tree of arrays, or of the difference of two; float64."""
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), one)
    if other is not None:
        wide = jax.tree.map(lambda a, b: a - np.asarray(b, np.float64), wide, other)
    return float(np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(wide))))


def measure(
    workdir: Path, counts: Sequence[int] = SNAPSHOTS, kept: Sequence[float] = KEPT
) -> list[dict[str, Any]]:
    """A row a number of snapshots and a width that a finished run tracked."""
    run, rows = load(workdir), []
    total, every = run.step, run.config.ema.snapshot_every
    last, everywhere = run.state().params["network"], parallel.replicated(run.mesh)
    posthoc.restore_networks = functools.cache(posthoc.restore_networks)  # each is read once
    tracked = {width: load(workdir, sigma_rel=width).params for width in run.config.ema.sigma_rel}
    for count in counts:
        stride = total // count
        if stride % every or total % count:
            raise ValueError(f"{count} snapshots of {total} steps at every {every}")
        given = [(step, width) for step in range(stride, total + 1, stride) for width in kept]
        for wanted, average in tracked.items():
            weights, profile_error = posthoc.fit(*zip(*given, strict=True), total, wanted)
            combined = dict(zip(given, weights.tolist(), strict=True))
            off = distance(posthoc.combine(workdir / "snapshots", combined, everywhere), average)
            moved = distance(average, last)
            rows.append(
                {
                    "snapshots": count,
                    "sigma_rel": wanted,
                    "error": off / moved,
                    "nearest": min(distance(tracked[width], average) for width in kept) / moved,
                    "relative": off / distance(average),
                    "profile_error": profile_error,
                    "sum_of_weights_abs": float(np.abs(weights).sum()),
                }
            )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: errors in percent, a line a width, a column a number of snapshots, and the
    nearest's.
    """
    counts = sorted({row["snapshots"] for row in rows})
    lines = []
    for width in sorted({row["sigma_rel"] for row in rows}):
        mine = {row["snapshots"]: row for row in rows if row["sigma_rel"] == width}
        lines.append([f"{width:g}", *(f"{100 * mine[n]['error']:.2g}" for n in counts)])
        lines[-1].append(f"{100 * mine[counts[0]]['nearest']:.2g}")
    headers = ["sigma_rel", *(f"{n} snapshots" for n in counts), "the nearest of the two"]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


@rc_context(plots.STYLE)
def plot(rows: Sequence[Mapping[str, Any]], kept: Sequence[float] = KEPT) -> Figure:
    """Error by width, a line a number of snapshots; the two widths that are kept are marked."""
    figure = Figure(figsize=(plots.WIDTH, 3.6))
    axes = figure.subplots()
    counts = sorted({row["snapshots"] for row in rows})
    others = [row for row in rows if row["sigma_rel"] not in kept]  # there the error is rounding

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
        help="--config.FIELD=VALUE changes it",
    )
    add("--steps", type=int, default=2000, help=f"of the run, a multiple of {SNAPSHOTS[-1]} (2000)")
    add(
        "--workdir",
        type=Path,
        help="where the run goes, and stays (default: a temporary directory)",
    )
    add(
        "--out",
        type=Path,
        default=Path(__file__).parent / "results" / "posthoc_ema",
        help="path without suffix",
    )
    args, rest = parser.parse_known_args(argv)
    fields = {
        "train.steps": args.steps,
        "ema.sigma_rel": WIDTHS,
        "ema.snapshot_every": args.steps // SNAPSHOTS[-1],
    }
    fields |= {"optimizer.schedule": "constant"}
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
