r"""Finds the network that learns most in a processor second, for the joint study.

    nice -n 19 python benchmarks/joint_pilot.py --data_dir=DIR --cpu_minutes=15

Each network (``SHAPES``) is trained with each learning rate by configs/joint_cifar.py:plain, on
seed 100 and for the same processor time. Then a linear head and neighbours classify images that are
held out from the training split, by each block and noise level, and by raw pixels. Rows are
appended to benchmarks/results/joint/pilot.jsonl; the same command again adds those that are
missing.
"""

import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil
from machine import machine
from sklearn.decomposition import PCA

from ddaepp_jax import build, load
from ddaepp_jax.cli.arguments import Parser, number, path
from ddaepp_jax.cli.start import launch, start_backend
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.probing.heads import linear_accuracy
from ddaepp_jax.probing.neighbours import knn_accuracy
from ddaepp_jax.probing.protocols import PROTOCOLS
from ddaepp_jax.probing.splits import split_rows

SEED = 100  # used for nothing else
LEVELS = (0.5, 0.7, 0.85)
RATES = (5e-4, 1e-3)
HEADS = PROTOCOLS["cached"]
NEIGHBOURS = 20
IMAGES = 20_000  # from which heads learn and among which neighbours are sought
SHAPES = {
    "dit_192x6": dict(width=192, depth=6, num_heads=3, bottleneck="block_3"),
    "dit_256x6": dict(width=256, depth=6, num_heads=4, bottleneck="block_3"),
    "dit_192x10": dict(width=192, depth=10, num_heads=3, bottleneck="block_5"),
    "dit_384x6": dict(width=384, depth=6, num_heads=6, bottleneck="block_3"),
    "dit_128x6_patch2": dict(width=128, depth=6, num_heads=2, patch_size=2, bottleneck="block_3"),
}


def train(shape: str, rate: float, data_dir: Path, workdir: Path, seconds: float) -> float:
    """Trains a run until it has used some processor time, and returns that time in seconds."""
    fields = {"data.data_dir": data_dir, "seed": SEED, "optimizer.learning_rate": rate}
    fields |= {"train.images": 100_000_000}
    fields |= {f"model.{name}": value for name, value in SHAPES[shape].items()}
    fields |= {f"evals.{name}.every": 0 for name in ("features", "heldout_loss")}
    command = [sys.executable, "-m", "ddaepp_jax.main", "--config=configs/joint_cifar.py:plain"]
    command += [f"--workdir={workdir}"]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    process = psutil.Popen(command)
    used = 0.0
    while process.poll() is None:
        times = process.cpu_times()
        if used < seconds <= times.user + times.system:
            process.send_signal(signal.SIGTERM)
        used = times.user + times.system
        time.sleep(1)
    return used


def accuracies(features: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, float]:
    """Classifies features by linear heads and by neighbours of whitened features.

    Args:
      features: (N, C) features; the first ``IMAGES`` are learned from, the others classified.
      labels: (N,) int.
      classes: number of classes.

    Returns:
      Accuracies in percent.
    """
    bank, query = features[:IMAGES], features[IMAGES:]
    known, asked = labels[:IMAGES], labels[IMAGES:]
    linear = linear_accuracy((bank, known), (query, asked), HEADS, classes)
    whiten = PCA(whiten=True).fit(bank)
    knn = knn_accuracy(whiten.transform(bank), known, whiten.transform(query), asked, NEIGHBOURS)
    return {"linear": 100 * linear, "whitened_knn": 100 * knn}


def measure(workdir: Path, data: Dataset, ids: np.ndarray) -> dict[str, Any]:
    """Measures the best block and noise level of a run, by held-out linear accuracy."""
    run = load(workdir)
    images, labels = data.gather(ids)
    cells = []
    for level in LEVELS:
        blocks = run.features(images, noise_level=level, layers=run.layers[:-1])
        for layer, features in blocks.items():
            values = accuracies(features, labels, data.num_classes)
            cells.append({"layer": layer, "level": level, **values})
    best = max(cells, key=lambda cell: cell["linear"])
    parameters = sum(leaf.size for leaf in jax.tree.leaves(run.params))
    return {"step": run.step, "parameters": parameters, **best, "cells": cells}


def pilot(data_dir: Path, workdir: Path, out: Path, cpu_minutes: float) -> None:
    """Appends the rows that are missing to a file."""
    from ddaepp_jax import config as schema

    config = schema.get_config()
    config.data.update(name="folder", data_dir=str(data_dir))
    data = build.dataset(config, "train").resident()
    train_ids, held_out = split_rows(len(data), 0.1, SEED)
    ids = np.concatenate([train_ids[:IMAGES], held_out])
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(row["shape"], row.get("rate")) for row in rows}

    def append(row: dict[str, Any]) -> None:
        with out.open("a") as file:
            file.write(json.dumps(row | machine()) + "\n")

    if ("pixels", None) not in done:
        images, labels = data.gather(ids)
        flat = images.reshape(len(images), -1).astype(np.float32) / 127.5 - 1
        append({"shape": "pixels", **accuracies(flat, labels, data.num_classes)})
    for shape in SHAPES:
        for rate in RATES:
            if (shape, rate) not in done:
                run = workdir / f"{shape}-{rate:g}"
                seconds = train(shape, rate, data_dir, run, 60 * cpu_minutes)
                row = {"shape": shape, "rate": rate, "cpu_seconds": round(seconds)}
                append(row | measure(run, data, ids))


def main(argv: Sequence[str]) -> None:
    parser = Parser("benchmarks.joint_pilot", __doc__)
    add = parser.add_argument
    add("--data_dir", type=path, required=True, help="folder of benchmarks/resized_images.py")
    add("--workdir", type=path, default=Path("runs/joint_pilot"), help="where the runs go")
    add("--cpu_minutes", type=number, default=15.0, help="processor time of a run (15)")
    results = Path(__file__).parent / "results" / "joint" / "pilot.jsonl"
    add("--out", type=path, default=results, help="file of the rows")
    args = parser.parse_args(argv)
    start_backend()
    pilot(args.data_dir, args.workdir, args.out, args.cpu_minutes)


if __name__ == "__main__":
    launch(main)
