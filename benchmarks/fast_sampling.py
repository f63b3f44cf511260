"""Compares samplers of few steps with DDIM's 100, or Heun's 40, by the Frechet distance of samples.

    python -m ddaepp_jax.main --config=configs/unet_digits.py:vp --workdir=runs/digits_vp
    python benchmarks/fast_sampling.py --runs runs/digits_vp

Samples of a seed have the same start noise for all samplers, and are compared with the run's
training images by the features of a classifier. "minus the first" is the mean over the seeds of the
distance minus that of the run's first row, with its 95 % interval (Student's). "off" says how well
the ODE is solved: the root of the mean squared difference, in levels of 0..255, between the first
250 samples and those of a second-order sampler with 200 steps. Rows are appended to ``--out``, and
finished seeds are kept in the run's directory: the same command continues.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from scipy import stats
from tabulate import tabulate

from ddaepp_jax import load
from ddaepp_jax.cli.arguments import Parser, comma_separated
from ddaepp_jax.cli.start import launch, start_backend
from ddaepp_jax.diffusion.edm import EDM
from ddaepp_jax.diffusion.vp import VariancePreserving
from ddaepp_jax.run import Run
from ddaepp_jax.scoring import by_name
from ddaepp_jax.scoring.extractors import Extractor
from ddaepp_jax.scoring.references import Reference
from ddaepp_jax.scoring.samples import score_samples

BATCH = 64  # images that the extractor sees at once
FINE, SOLVED = 200, 250  # steps of the ODE's solution, and images for which it is computed
# (sampler, steps, options) by the class of the process; the first is what the others are compared
# with.
COMPARED = {
    VariancePreserving: [
        ("ddim", 100, {}),
        ("ddim", 20, {}),
        ("ddim", 20, {"grid": "quadratic"}),
        *(
            ("dpmpp_2m", steps, {"grid": grid})
            for steps in (10, 15, 20)
            for grid in ("time", "log-snr")
        ),
    ],
    EDM: [("heun", steps, {}) for steps in (40, 18, 10, 8)],
}


def program(argv: Sequence[str]) -> None:
    args = _parse(argv)
    start_backend()
    rows = []
    for workdir in args.runs:
        run = load(workdir)
        data = by_name.ClassifierData.of_config(run.config)
        extractor = by_name.extractor("classifier", data, run.mesh)
        source = by_name.reference_source(run.config.data.split, run.config, own=True)
        reference = by_name.reference(source, extractor, BATCH)
        rows += scored(run, extractor, reference, args)
    with args.out.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    print(table(rows))


def scored(
    run: Run, extractor: Extractor, reference: Reference, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Returns a row for each sampler that ``COMPARED`` names for the run's process."""
    (compared,) = (c for kind, c in COMPARED.items() if isinstance(run.process, kind))
    drawn = lambda **sampling: run.sample(n=SOLVED, batch_size=args.batch_size, **sampling).astype(
        np.float64
    )
    second_order, _, _ = compared[-1]
    solution = drawn(sampler=second_order, steps=FINE)
    rows = []
    for sampler, steps, options in compared:
        samples = run.samples(
            sampler=sampler, steps=steps, options=options, batch_size=args.batch_size
        )
        tag = samples.sampling.tag
        result = score_samples(
            samples,
            extractor,
            reference,
            run.workdir / "fid" / f"fast-{run.step}-{tag}-{args.n}",
            n=args.n,
            seeds=args.seeds,
        )
        distances = {row["seed"]: row["fd"] for row in result["rows"]}
        row = {
            "run": run.workdir.name,
            "process": run.config.diffusion.name,
            "step": run.step,
            "sampler": sampler,
            "steps": steps,
            "grid": samples.sampling.options.get("grid", ""),
            "evaluations": (2 * steps - 1) if sampler == "heun" else steps,
            "n": args.n,
            "seeds": list(args.seeds),
            "fd": [distances[seed] for seed in args.seeds],
        }
        row["difference"] = interval(np.subtract(row["fd"], (rows or [row])[0]["fd"]))
        error = drawn(sampler=sampler, steps=steps, options=options) - solution
        row["off"] = float(np.sqrt(np.square(error).mean()))
        rows.append(row | machine())
    return rows


def interval(values: np.ndarray) -> tuple[float, float]:
    """Returns the mean, and half the width of its 95 % interval (Student's, normal values)."""
    wide = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(wide)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table in Markdown, with a row for each run and sampler."""
    cells = []
    for row in rows:
        mean, wide = row["difference"]
        difference = f"{mean:+.3f} ± {wide:.3f}" if wide else ""
        name = f"{row['sampler']} {row['grid']}"
        fd = f"{np.mean(row['fd']):.3f}"
        off = f"{row['off']:.1f}"
        cells.append([row["run"], name, row["steps"], row["evaluations"], fd, difference, off])
    titles = ["run", "sampler", "steps", "evaluations", "classifier-fd", "minus the first", "off"]
    return tabulate(cells, titles, "github", disable_numparse=True)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("benchmarks.fast_sampling", __doc__)
    add = parser.add_argument
    add("--runs", nargs="+", type=Path, required=True, help="run directories")
    add("--n", type=int, default=500, help="samples of each seed (500)")
    add("--seeds", type=comma_separated(int), default=(0, 1, 2), help="seeds (0,1,2)")
    add("--batch_size", type=int, default=250, help="images sampled at once (250)")
    out = Path(__file__).parent / "results" / "fast_sampling.jsonl"
    add("--out", type=Path, default=out, help="file to which rows are appended")
    return parser.parse_args(argv)


if __name__ == "__main__":
    launch(program)
