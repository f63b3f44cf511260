"""Measures the time of scores: Frechet distance, precision and recall, KID, Inception Score.

    python benchmarks/scores.py
    python benchmarks/scores.py --images=5000 --neighbours=1000 --repeats=3

Features are random and rectified, as wide as Inception's, with variances that fall over the
dimensions; logits are normal. Times are wall-clock seconds, and CPU seconds over all threads; the
latter are more reliable on a machine that does other work too. Rows are written to ``--out``, by
default benchmarks/results/scores.jsonl.
"""

import argparse
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

CLASSES = 1008  # size of Inception's logits


def random_features(images: int, dims: int, seed: int) -> np.ndarray:
    """Returns features (images, dims) in float32; each seed has another mean."""
    scale = np.geomspace(1, 0.1, dims, dtype=np.float32)
    normal = np.random.default_rng(seed).standard_normal((images, dims), np.float32)
    return np.maximum(normal * scale[None] + 0.05 * seed, 0)


def timed(score: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Calls a function ``repeats`` times and returns the call with the fewest CPU seconds."""
    calls = []
    for _ in range(repeats):
        wall = time.perf_counter()
        cpu = time.process_time()
        value = score()
        calls.append((time.process_time() - cpu, time.perf_counter() - wall, value))
    cpu, wall, value = min(calls, key=lambda call: call[0])
    return {"seconds": round(wall, 2), "cpu_seconds": round(cpu, 2), "value": value}


def program(argv: Sequence[str]) -> None:
    args = _parse(argv)
    common = {
        "load_before": round(os.getloadavg()[0], 1),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        **machine(),
    }
    rows = []
    for name, (images, score) in _scores(args.images, args.neighbours, args.dims).items():
        dims = CLASSES if name == "inception score" else args.dims
        row = {"score": name, "images": images, "dims": dims, **timed(score, args.repeats)}
        kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        row["peak_gib"] = round(kib / 2**20, 1)  # Includes the features.
        rows.append(row | common)
        print(json.dumps(rows[-1]), flush=True)
    args.out.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _scores(images: int, neighbours: int, dims: int) -> dict[str, tuple[int, Callable[[], Any]]]:
    """Returns the number of images and the function of each score, by name."""
    real = random_features(images, dims, seed=1)
    fake = random_features(images, dims, seed=2)
    logits = np.random.default_rng(0).standard_normal((images, CLASSES), np.float32)
    neighbours = min(neighbours, images)
    moments = frechet.gaussian(real), frechet.gaussian(fake)

    def features_to_distance() -> float:
        return frechet.distance(frechet.gaussian(real), frechet.gaussian(fake))

    return {
        "frechet, features to distance": (images, features_to_distance),
        "frechet, of moments": (images, lambda: frechet.distance(*moments)),
        "precision and recall": (
            neighbours,
            lambda: precision_recall(real[:neighbours], fake[:neighbours]),
        ),
        "kid": (images, lambda: kid(real, fake)),
        "inception score": (images, lambda: inception_score(logits)),
    }


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("benchmarks.scores", __doc__)
    add = parser.add_argument
    add("--images", type=int, default=50_000, help="images of each set (50000)")
    add("--neighbours", type=int, default=10_000, help="images for precision and recall (10000)")
    add("--dims", type=int, default=2048, help="width of a feature (2048)")
    add("--repeats", type=int, default=1, help="number of calls, of which the fastest counts (1)")
    add("--out", type=Path, default=Path(__file__).parent / "results" / "scores.jsonl")
    return parser.parse_args(argv)


if __name__ == "__main__":
    launch(program)
