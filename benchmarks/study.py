"""Variants of a config against each other, over seeds: trained, probed, put into one table and one
plot with spread.

    python benchmarks/study.py --name=self_conditioning --config=configs/uvit_cifar.py:study \\
        --variant=plain:model.self_condition=False
        --variant=self-conditioned:model.self_condition=True
    python benchmarks/study.py --name=distillation --config=configs/ablation_study.py:{} \\
        --variant=plain --variant=conditioned --variant=distilled --variant=both

The first variant is the base: the others are trained for as many steps, and where a step's FLOPs
  (XLA's cost analysis)
differ by more than a percent, once more for as many FLOPs; {} in --config is the variant's name.
Where the config scores samples (evals.fid), the last distance is a column. The same command again
goes on where it stopped, and a run that another study has made is taken from there. In
benchmarks/results/NAME: runs.jsonl (a row a run), logs/ (each run's metrics), table.md, plot.png.
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
from train_step import Step, random_images

from ddaepp_jax import linear_probe, load
from ddaepp_jax.cli.arguments import Parser, comma_separated
from ddaepp_jax.cli.start import launch, start_backend
from ddaepp_jax.config.overrides import parse_config
from ddaepp_jax.reporting import plots
from ddaepp_jax.reporting.probes import PIXELS
from ddaepp_jax.run.train import train_and_evaluate

MADE_BY = (
    "config",
    "overrides",
    "seed",
    "steps",
    "probed",
)  # of a row: what its numbers are a function of
BUDGETS = ("steps", "compute")
CLOSE = 0.01  # FLOPs a step so close count as equal: one run serves both budgets
MEASURES = {  # column of a row -> its name in table and plot
    "train_loss": "training loss",
    "heldout_loss": "held-out loss",
    "linear_test": "linear, %",
    "knn_test": "kNN, %",
    "frechet": "Frechet distance",
}
BESIDE = dict(xycoords=("axes fraction", "data"), xytext=(0, 2), textcoords="offset points", size=7)


def of_variant(config: str, variant: str) -> str:
    """The --config of a variant."""
    return config.replace("{}", variant)


def steps_by_budget(
    overrides: Mapping[str, Sequence[str]], config: str, budgets: Sequence[str]
) -> dict[str, dict[str, int]]:
    """{variant: {"steps": as many as the base's, "compute": as many FLOPs}}, of those ``budgets``
    alone.
    """
    flops, steps = {}, 0
    for variant, fields in overrides.items():
        made = parse_config([f"--config={of_variant(config, variant)}", *fields])
        flops[variant], steps = Step(made, random_images(made)).program.flops, made.train.steps
    base = next(iter(flops.values()))
    ratios = {
        variant: base / cost if abs(base / cost - 1) > CLOSE else 1
        for variant, cost in flops.items()
    }
    made = {
        variant: {"steps": steps, "compute": round(steps * ratio)}
        for variant, ratio in ratios.items()
    }
    return {variant: {name: counts[name] for name in budgets} for variant, counts in made.items()}


def run_one(
    config: str,
    fields: Sequence[str],
    workdir: Path,
    images: Sequence[int] = (),
    **probed: Sequence[Any],
) -> dict[str, Any]:
    """Train and probe one run, at some ``layers`` and ``levels``; its row.

    ``images``: how many of the two splits are probed; (): all.
    """
    start = time.monotonic()
    made = parse_config([f"--config={config}", *fields])
    train_and_evaluate(made, workdir)
    run = load(workdir)
    for split, number in zip(("split", "eval_split"), images, strict=False):
        run.config.data[split] += f"[:{number}]"
    found = linear_probe.probe(
        run, linear_probe.settings(run, **probed), workdir / "probe" / "study"
    )
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    (pixels,) = (row for row in found["rows"] if row["layer"] == PIXELS)
    distances = [(k, v) for row in rows for k, v in row.items() if re.match("fid/.*-fd", k)]
    columns = (
        "layer",
        "noise_level",
        "learning_rate",
        "linear_held_out",
        "linear_test",
        "knn_test",
    )
    return {
        "train_loss": [row["denoising/loss"] for row in rows if "loss" in row][
            -1
        ],  # the part that all variants have
        "heldout_loss": [
            v
            for row in rows
            for k, v in row.items()
            if k.startswith("heldout_loss") and "mean" in k
        ][-1],
        **{name: found["best"][name] for name in columns},
        **({"frechet": distances[-1][1], "frechet_of": distances[-1][0]} if distances else {}),
        "pixels_linear_test": pixels["linear_test"],
        "pixels_knn_test": pixels["knn_test"],
        "protocol": found["protocol"],
        "data": found["data"],
        "seconds": round(time.monotonic() - start),
        **machine(),
    }


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a study's runs.jsonl."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def same_run(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two rows are of one run, whatever it is called and compared with."""
    return all(one.get(field) == other.get(field) for field in MADE_BY)


def keep_logs(workdir: Path, logs: Path) -> None:
    """A run's metrics and probe, beside the study's rows."""
    logs.mkdir(exist_ok=True)
    shutil.copy(workdir / "metrics.jsonl", logs / f"{workdir.name}.jsonl")
    shutil.copy(workdir / "probe" / "study.csv", logs / f"{workdir.name}-probe.csv")


def publish(rows: Sequence[Mapping[str, Any]], results: Path) -> None:
    """What is made of the rows."""
    (results / "table.md").write_text(table(rows) + "\n")
    plot(rows).savefig(results / "plot.png", dpi=160)


def spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation."""
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: means with standard deviations over seeds, differences to the base by seed, and raw
    pixels.
    """
    lines, base, measures = (
        [],
        rows[0]["variant"],
        {k: v for k, v in MEASURES.items() if k in rows[0]},
    )
    for budget in BUDGETS:
        of_budget = [row for row in rows if budget in row["budgets"]]
        for variant in dict.fromkeys(row["variant"] for row in of_budget):
            mine = {row["seed"]: row for row in of_budget if row["variant"] == variant}
            theirs = {row["seed"]: row for row in of_budget if row["variant"] == base}
            line = [f"equal {budget}", variant, len(mine), mine[min(mine)]["steps"]]
            difference = ["", f"{variant} - {base}", len(mine), ""]
            for name in measures:
                digits = 2 if "test" in name else 4
                line.append(spread([row[name] for row in mine.values()], digits))
                both = sorted(mine.keys() & theirs.keys())
                difference.append(
                    spread([mine[seed][name] - theirs[seed][name] for seed in both], digits)
                )
            lines += [line] + [difference] * (variant != base)
    pixels = [
        np.mean([row[f"pixels_{name}"] for row in rows]) for name in ("linear_test", "knn_test")
    ]
    lines.append(["", "raw pixels", "", "", "", "", *(f"{value:.2f}" for value in pixels)])
    return tabulate(
        lines, ["budget", "variant", "seeds", "steps", *measures.values()], tablefmt="github"
    )


@rc_context(plots.STYLE)
def plot(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """A panel a measure, a line of them a budget: seeds as points, joined; means as bars; raw
    pixels as a line.
    """
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    measures = {name: title for name, title in MEASURES.items() if name in rows[0]}
    budgets = {budget: [row for row in rows if budget in row["budgets"]] for budget in BUDGETS}
    if budgets["compute"] in ([], budgets["steps"]):
        del budgets["compute"]
    figure = Figure(figsize=(max(2.4, 0.5 * len(variants)) * len(measures), 2.9 * len(budgets)))
    panels = figure.subplots(len(budgets), len(measures), squeeze=False)
    for line, (budget, of_budget) in zip(panels, budgets.items(), strict=True):
        for axes, (name, title) in zip(line, measures.items(), strict=True):
            draw_seeds(axes, of_budget, variants, name)
            if f"pixels_{name}" in rows[0]:
                axes.axhline(rows[0][f"pixels_{name}"], color="#666666", ls=":", lw=1)
                axes.annotate("raw pixels", (0.02, rows[0][f"pixels_{name}"]), **BESIDE)
            axes.set_title(title, fontsize=9)
        line[0].set_ylabel(f"equal {budget}")
    return figure


def draw_seeds(
    axes: Axes, rows: Sequence[Mapping[str, Any]], variants: Sequence[str], name: str
) -> None:
    """A measure by variant: differences are to be read along a seed's line, not between the means
    alone.
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
    """The study's rows without what is measured, seed by seed."""
    budgets = steps_by_budget(overrides, args.config, args.budgets)
    for seed, (variant, fields) in itertools.product(args.seeds, overrides.items()):
        for steps in dict.fromkeys(budgets[variant].values()):
            yield {
                "variant": variant,
                "seed": seed,
                "steps": steps,
                "config": of_variant(args.config, variant),
                "overrides": [field for field in fields if "data_dir" not in field],
                "probed": {
                    name: list(getattr(args, name)) for name in ("images", "layers", "levels")
                },
                "budgets": [name for name, wanted in budgets[variant].items() if wanted == steps],
            }


def study(args: argparse.Namespace, common: Sequence[str]) -> None:
    """Make the rows that are not there yet, each published as it comes."""
    results, overrides = args.out / args.name, {}
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
        variant, seed, steps = key = row["variant"], row["seed"], row["steps"]
        if key in done:
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
    publish(rows, results)  # where all was there, by the table and plot of today
    print(f"\n{table(rows)}\n\nlook at {results}/plot.png; rows are in {file}")


def program(argv: Sequence[str]) -> None:
    parser = Parser("benchmarks.study", __doc__)
    add = parser.add_argument
    add("--name", required=True, help="of the study, and of its folder of results")
    add(
        "--config",
        required=True,
        metavar="FILE[:VARIANT]",
        help="--config.FIELD=VALUE changes it for all variants",
    )
    add(
        "--variant",
        action="append",
        required=True,
        metavar="NAME:FIELD=VALUE,..",
        help="may be repeated; base first",
    )
    add("--seeds", type=comma_separated(int), default=(0, 1, 2), help="with commas (0,1,2)")
    add(
        "--budgets",
        nargs="+",
        choices=BUDGETS,
        default=BUDGETS,
        help="what is equal (default: each in turn)",
    )
    add("--layers", type=comma_separated(str), default=(), help="layers probed (default: all)")
    add(
        "--levels",
        type=comma_separated(float),
        default=(),
        help="noise levels probed (default: the process's)",
    )
    add(
        "--images",
        type=comma_separated(int),
        default=(),
        help="TRAIN,TEST: how many are probed (default: all)",
    )
    add(
        "--workdir",
        type=Path,
        default=Path("runs/studies"),
        help="where the runs go (runs/studies)",
    )
    add("--out", type=Path, default=Path(__file__).parent / "results", help="where the results go")
    args, common = parser.parse_known_args(argv)
    start_backend()
    study(args, common)


if __name__ == "__main__":
    launch(program)
