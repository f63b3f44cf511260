"""How long the scores of two sets of features take: Frechet distance, precision and recall, KID,
Inception score.

    python benchmarks/scores.py
    python benchmarks/scores.py --images=5000 --neighbours=1000 --repeats=3

Features are random and rectified, with variances that fall over the dimensions, as wide as
Inception's; logits are normal. Wall and CPU seconds, of all threads: on a machine that does
something else too the latter tell more. Rows go to ``--out``, by default
benchmarks/results/scores.jsonl.
"""

import json
import os
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from machine import machine

from ddaepp_jax.cli.arguments import Parser
from ddaepp_jax.cli.start import launch
from ddaepp_jax.scoring import frechet
from ddaepp_jax.scoring.inception_score import inception_score
from ddaepp_jax.scoring.kid import kid
from ddaepp_jax.scoring.precision_recall import precision_recall

CLASSES = 1008  # of Inception's logits


def random_features(images: int, dims: int, seed: int) -> np.ndarray:
    """(images, dims) float32; each seed has another mean."""
    scale = np.geomspace(1, 0.1, dims, dtype=np.float32)
    drawn = np.random.default_rng(seed).standard_normal((images, dims), np.float32)
    return np.maximum(drawn * scale[None] + 0.05 * seed, 0)


def timed(score: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """The quickest of ``repeats``, by CPU seconds."""
    found = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        value = score()
        found.append((time.process_time() - cpu, time.perf_counter() - wall, value))
    cpu, wall, value = min(found, key=lambda one: one[0])
    return {"seconds": round(wall, 2), "cpu_seconds": round(cpu, 2), "value": value}


def program(argv: Sequence[str]) -> None:
    parser = Parser("benchmarks.scores", __doc__)
    add = parser.add_argument
    add("--images", type=int, default=50_000, help="a set, but for precision and recall (50000)")
    add(
        "--neighbours",
        type=int,
        default=10_000,
        help="images a set for precision and recall (10000)",
    )
    add("--dims", type=int, default=2048, help="of a feature (2048)")
    add("--repeats", type=int, default=1, help="of which the quickest counts (1)")
    add("--out", type=Path, default=Path(__file__).parent / "results" / "scores.jsonl")
    args = parser.parse_args(argv)
    real, fake = (random_features(args.images, args.dims, seed) for seed in (1, 2))
    logits = np.random.default_rng(0).standard_normal((args.images, CLASSES), np.float32)
    few = slice(args.neighbours)
    moments = frechet.gaussian(real), frechet.gaussian(fake)
    scores: dict[str, tuple[int, Callable[[], Any]]] = {
        "frechet, features to distance": (
            args.images,
            lambda: frechet.distance(frechet.gaussian(real), frechet.gaussian(fake)),
        ),
        "frechet, of moments": (args.images, lambda: frechet.distance(*moments)),
        "precision and recall": (
            min(args.neighbours, args.images),
            lambda: precision_recall(real[few], fake[few]),
        ),
        "kid": (args.images, lambda: kid(real, fake)),
        "inception score": (args.images, lambda: inception_score(logits)),
    }
    common = {
        "load_before": round(os.getloadavg()[0], 1),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        **machine(),
    }
    rows = []
    for name, (images, score) in scores.items():
        row = {
            "score": name,
            "images": images,
            "dims": CLASSES if name == "inception score" else args.dims,
        }
        row |= timed(score, args.repeats)
        row["peak_gib"] = round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1
        )  # features included
        rows.append(row | common)
        print(json.dumps(rows[-1]), flush=True)
    args.out.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    launch(program)
