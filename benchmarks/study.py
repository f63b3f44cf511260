r"""Compares variants of a config over seeds: trains and probes them, and makes a table and a plot.

    python benchmarks/study.py --name=self_conditioning --config=configs/uvit_cifar.py:study \
        --variant=plain:model.self_condition=False \
        --variant=self-conditioned:model.self_condition=True
    python benchmarks/study.py --name=distillation --config=configs/ablation_study.py:{} \
        --variant=plain --variant=conditioned --variant=distilled --variant=both

The first variant is the base. The others are trained for as many steps, and if the FLOPs of their
step (XLA's cost analysis) differ from the base's by more than a percent, once more for as many
FLOPs. {} in --config is replaced by the variant's name. If the config scores samples (evals.fid),
the last distance is a column. The same command again continues where it stopped, and reuses runs
that another study made.

benchmarks/results/NAME gets runs.jsonl (a row for each run), logs/ (each run's metrics), table.md
and plot.png.
"""

import argparse
import itertools
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tabulate import tabulate
from train_step import SHAPES, Step, random_images

from ddaepp_jax import linear_probe, load
from ddaepp_jax.cli.arguments import Parser, comma_separated
from ddaepp_jax.cli.start import launch, start_backend
from ddaepp_jax.config.overrides import parse_config
from ddaepp_jax.reporting import plots
from ddaepp_jax.reporting.probes import PIXELS
from ddaepp_jax.run.train import train_and_evaluate

# Columns of a row that determine its numbers.
IDENTITY = ("config", "overrides", "seed", "steps", "probed")
BUDGETS = ("steps", "compute")
CLOSE = 0.01  # FLOPs of a step within this share are equal: one run serves both budgets.
MEASURES = {  # Column of a row -> its name in table and plot.
    "train_loss": "training loss",
    "heldout_loss": "held-out loss",
    "linear_test": "linear, %",
    "knn_test": "kNN, %",
    "frechet": "Frechet distance",
}
BESIDE = dict(xycoords=("axes fraction", "data"), xytext=(0, 2), textcoords="offset points", size=7)


def variant_config(config: str, variant: str) -> str:
    """Returns the --config of a variant."""
    return config.replace("{}", variant)


def steps_by_budget(
    overrides: Mapping[str, Sequence[str]], config: str, budgets: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Returns each variant's number of steps for each of ``budgets``.

    The budget "steps" gives the steps of the config, "compute" as many FLOPs as the base takes.

    Returns:
      {variant: {budget: steps}}.
    """
    flops = {}
    steps = 0
    for variant, fields in overrides.items():
        parsed = parse_config([f"--config={variant_config(config, variant)}", *fields])
        flops[variant] = Step(parsed, random_images(SHAPES[parsed.data.name])).program.flops
        steps = parsed.train.steps
    base = next(iter(flops.values()))
    by_budget = {}
    for variant, cost in flops.items():
        ratio = base / cost if abs(base / cost - 1) > CLOSE else 1
        counts = {"steps": steps, "compute": round(steps * ratio)}
        by_budget[variant] = {name: counts[name] for name in budgets}
    return by_budget


def run_one(
    config: str,
    fields: Sequence[str],
    workdir: Path,
    images: Sequence[int] = (),
    **probed: Sequence[Any],
) -> dict[str, Any]:
    """Trains and probes one run, and returns its row.

    Args:
      config: config file and variant.
      fields: overrides of the config's fields.
      workdir: run directory.
      images: numbers of images of the training and of the held-out split to probe; (): all.
      probed: the ``layers`` and ``levels`` to probe.
    """
    start = time.monotonic()
    train_and_evaluate(parse_config([f"--config={config}", *fields]), workdir)
    run = load(workdir)
    for split, number in zip(("split", "eval_split"), images, strict=False):
        run.config.data[split] += f"[:{number}]"
    settings = linear_probe.settings(run, **probed)
    results = linear_probe.probe(run, settings, workdir / "probe" / "study")
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    (pixels,) = (row for row in results["rows"] if row["layer"] == PIXELS)
    metrics = [item for row in rows for item in row.items()]
    # Denoising is the part of the loss that all variants have.
    train_losses = [row["denoising/loss"] for row in rows if "loss" in row]
    heldout_losses = [
        value for name, value in metrics if name.startswith("heldout_loss") and "mean" in name
    ]
    distances = [item for item in metrics if re.match("fid/.*-fd", item[0])]
    frechet = {"frechet": distances[-1][1], "frechet_of": distances[-1][0]} if distances else {}
    columns = (
        "layer",
        "noise_level",
        "learning_rate",
        "linear_held_out",
        "linear_test",
        "knn_test",
    )
    return {
        "train_loss": train_losses[-1],
        "heldout_loss": heldout_losses[-1],
        **{name: results["best"][name] for name in columns},
        **frechet,
        "pixels_linear_test": pixels["linear_test"],
        "pixels_knn_test": pixels["knn_test"],
        "protocol": results["protocol"],
        "data": results["data"],
        "seconds": round(time.monotonic() - start),
        **machine(),
    }


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Reads the rows of a study's runs.jsonl."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def same_run(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two rows are of the same run; its name and budget may differ."""
    return all(one.get(field) == other.get(field) for field in IDENTITY)


def keep_logs(workdir: Path, logs: Path) -> None:
    """Copies a run's metrics and probe beside the study's rows."""
    logs.mkdir(exist_ok=True)
    shutil.copy(workdir / "metrics.jsonl", logs / f"{workdir.name}.jsonl")
    shutil.copy(workdir / "probe" / "study.csv", logs / f"{workdir.name}-probe.csv")


def publish(rows: Sequence[Mapping[str, Any]], results: Path) -> None:
    """Writes the table and the plot of the rows."""
    (results / "table.md").write_text(table(rows) + "\n")
    plot(rows).savefig(results / "plot.png", dpi=160)


def spread(values: Sequence[float], digits: int) -> str:
    """Formats the mean ± the standard deviation of values."""
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table in Markdown.

    It has means with standard deviations over seeds, differences to the base seed by seed, and the
    accuracies of raw pixels.
    """
    lines = []
    base = rows[0]["variant"]
    measures = {name: title for name, title in MEASURES.items() if name in rows[0]}
    for budget in BUDGETS:
        budget_rows = [row for row in rows if budget in row["budgets"]]
        base_rows = {row["seed"]: row for row in budget_rows if row["variant"] == base}
        for variant in dict.fromkeys(row["variant"] for row in budget_rows):
            by_seed = {row["seed"]: row for row in budget_rows if row["variant"] == variant}
            seeds = sorted(by_seed.keys() & base_rows.keys())
            line = [f"equal {budget}", variant, len(by_seed), by_seed[min(by_seed)]["steps"]]
            difference = ["", f"{variant} - {base}", len(by_seed), ""]
            for name in measures:
                digits = 2 if "test" in name else 4
                differences = [by_seed[seed][name] - base_rows[seed][name] for seed in seeds]
                line.append(spread([row[name] for row in by_seed.values()], digits))
                difference.append(spread(differences, digits))
            lines.append(line)
            if variant != base:
                lines.append(difference)
    pixels = [
        np.mean([row[f"pixels_{name}"] for row in rows]) for name in ("linear_test", "knn_test")
    ]
    lines.append(["", "raw pixels", "", "", "", "", *(f"{value:.2f}" for value in pixels)])
    headers = ["budget", "variant", "seeds", "steps", *measures.values()]
    return tabulate(lines, headers, tablefmt="github")


@rc_context(plots.STYLE)
def plot(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws a column of panels for each measure, and a row for each budget.

    Seeds are joined points, means are bars, and raw pixels are a dotted line.
    """
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    measures = {name: title for name, title in MEASURES.items() if name in rows[0]}
    budgets = {budget: [row for row in rows if budget in row["budgets"]] for budget in BUDGETS}
    if budgets["compute"] in ([], budgets["steps"]):
        del budgets["compute"]
    figure = Figure(figsize=(max(2.4, 0.5 * len(variants)) * len(measures), 2.9 * len(budgets)))
    panels = figure.subplots(len(budgets), len(measures), squeeze=False)
    for line, (budget, budget_rows) in zip(panels, budgets.items(), strict=True):
        for axes, (name, title) in zip(line, measures.items(), strict=True):
            draw_seeds(axes, budget_rows, variants, name)
            if f"pixels_{name}" in rows[0]:
                axes.axhline(rows[0][f"pixels_{name}"], color="#666666", ls=":", lw=1)
                axes.annotate("raw pixels", (0.02, rows[0][f"pixels_{name}"]), **BESIDE)
            axes.set_title(title, fontsize=9)
        line[0].set_ylabel(f"equal {budget}")
    return figure


def draw_seeds(
    axes: Axes, rows: Sequence[Mapping[str, Any]], variants: Sequence[str], name: str
) -> None:
    """Draws a measure by variant; a line joins the points of a seed.

    Read differences along a seed's line, not between the means alone.
    """
    places = {variant: i for i, variant in enumerate(variants)}
    for seed in sorted({row["seed"] for row in rows}):
        points = sorted((places[row["variant"]], row[name]) for row in rows if row["seed"] == seed)
        axes.plot(*zip(*points, strict=True), color="#bbbbbb", lw=0.8, zorder=1)
    for (variant, i), colour in zip(places.items(), itertools.cycle(plots.COLOURS)):
        if values := [row[name] for row in rows if row["variant"] == variant]:
            axes.plot([i] * len(values), values, "o", color=colour, ms=4)
            axes.hlines(np.mean(values), i - 0.3, i + 0.3, color=colour, lw=1.5)
    axes.set_xticks(range(len(variants)), variants, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(variants) - 0.4)
    axes.grid(axis="x", visible=False)


def planned(
    args: argparse.Namespace, overrides: Mapping[str, Sequence[str]]
) -> Iterator[dict[str, Any]]:
    """Yields the study's rows without their measurements, seed by seed."""
    budgets = steps_by_budget(overrides, args.config, args.budgets)
    for seed, (variant, fields) in itertools.product(args.seeds, overrides.items()):
        for steps in dict.fromkeys(budgets[variant].values()):
            yield {
                "variant": variant,
                "seed": seed,
                "steps": steps,
                "config": variant_config(args.config, variant),
                "overrides": [field for field in fields if "data_dir" not in field],
                "probed": {
                    name: list(getattr(args, name)) for name in ("images", "layers", "levels")
                },
                "budgets": [name for name, count in budgets[variant].items() if count == steps],
            }


def study(args: argparse.Namespace, common: Sequence[str]) -> None:
    """Makes the rows that are missing, and publishes each when it is done."""
    results = args.out / args.name
    overrides = {}
    for text in args.variant:
        variant, _, fields = text.partition(":")
        overrides[variant] = [
            *common,
            *(f"--config.{field}" for field in fields.split(",") if field),
        ]
    results.mkdir(parents=True, exist_ok=True)
    file = results / "runs.jsonl"
    rows = read_rows(file) if file.exists() else []
    done = {(row["variant"], row["seed"], row["steps"]) for row in rows}
    elsewhere = [
        row
        for other in sorted(args.out.glob("*/runs.jsonl"))
        if other != file
        for row in read_rows(other)
    ]
    for row in planned(args, overrides):
        variant, seed, steps = row["variant"], row["seed"], row["steps"]
        if (variant, seed, steps) in done:
            continue
        if twin := next((other for other in elsewhere if same_run(other, row)), None):
            row = twin | row
        else:
            workdir = args.workdir / args.name / f"{variant}-{seed}-{steps}"
            fields = [*overrides[variant], f"--config.seed={seed}", f"--config.train.steps={steps}"]
            row |= run_one(row["config"], fields, workdir, **row["probed"])
            keep_logs(workdir, results / "logs")
        rows.append(row)
        with file.open("a") as opened:
            opened.write(json.dumps(row) + "\n")
        publish(rows, results)
    publish(rows, results)  # If all rows existed, this renews the table and the plot.
    print(f"\n{table(rows)}\n\nlook at {results}/plot.png; rows are in {file}")


def program(argv: Sequence[str]) -> None:
    parser = Parser("benchmarks.study", __doc__)
    add = parser.add_argument
    add("--name", required=True, help="name of the study and of its folder of results")
    add(
        "--config",
        required=True,
        metavar="FILE[:VARIANT]",
        help="config; --config.FIELD=VALUE changes a field for all variants",
    )
    add(
        "--variant",
        action="append",
        required=True,
        metavar="NAME:FIELD=VALUE,..",
        help="a variant, may be repeated; the first is the base",
    )
    add("--seeds", type=comma_separated(int), default=(0, 1, 2), help="seeds, with commas (0,1,2)")
    add(
        "--budgets",
        nargs="+",
        choices=BUDGETS,
        default=BUDGETS,
        help="what the compared runs have in common (default: each in turn)",
    )
    add("--layers", type=comma_separated(str), default=(), help="layers to probe (default: all)")
    add(
        "--levels",
        type=comma_separated(float),
        default=(),
        help="noise levels to probe (default: the process's)",
    )
    add(
        "--images",
        type=comma_separated(int),
        default=(),
        help="TRAIN,TEST: numbers of images to probe (default: all)",
    )
    add(
        "--workdir",
        type=Path,
        default=Path("runs/studies"),
        help="folder of the run directories (runs/studies)",
    )
    add(
        "--out",
        type=Path,
        default=Path(__file__).parent / "results",
        help="folder of the results (benchmarks/results)",
    )
    args, common = parser.parse_known_args(argv)
    start_backend()
    study(args, common)


if __name__ == "__main__":
    launch(program)
