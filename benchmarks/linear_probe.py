"""What probing a run costs, against the forward passes that DDAE's protocol needs: one an image, level and epoch.

    python benchmarks/linear_probe.py --workdir=runs/uvit_cifar --images=1000

A part of the run's data set is probed at the process's levels, all layers, without kNN, chosen on the test split: the
bare forward passes of the `online` protocol, then the `online` program, then the `cached` one, each compiled before it
is timed. A row goes to ``--out``, by default benchmarks/results/linear_probe.jsonl.
"""

import dataclasses
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddaepp_jax import build, cli, linear_probe, load
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.evaluation import features, placing
from ddaepp_jax.run import Run


def bare(run: Run, chosen: linear_probe.Settings, images: np.ndarray, count: int) -> float:
    """Seconds of ``count`` forward passes a level, in the program's batches, from host arrays, all layers pooled."""
    batch = features.make_feature_batch(features.noisy(run.module, run.process, chosen.layers), run.mesh)
    rows = np.arange(chosen.protocol.batch_size, dtype=np.int32)
    start = time.perf_counter()
    for level in chosen.levels:
        last: Any = None
        for number in range(-(-count // len(rows))):
            pixels, ids = placing.place(run.mesh, images[(rows + number) % len(images)], rows)
            found = batch(run.params, np.uint32(0), pixels, ids, run.noise_level(level), np.uint32(number))
            jax.block_until_ready(last)  # two are under way, as in the program
            last = found
        jax.block_until_ready(last)
    return time.perf_counter() - start


def first(data: Dataset, count: int) -> Dataset:
    """The first images of a set, in memory."""
    return dataclasses.replace(data, length=count).resident()


def program(argv: Sequence[str]) -> None:
    parser = cli.Parser("benchmarks.linear_probe", __doc__)
    parser.add_argument("--workdir", required=True, help="run directory")
    parser.add_argument("--images", type=int, default=1000, help="of the training split (1000); a fifth for testing")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "linear_probe.jsonl")
    args = parser.parse_args(argv)
    cli.start_backend()
    run = load(args.workdir)
    data = run.config.data
    parts = {
        data.split: first(build.dataset(run.config, data.split), args.images),
        data.eval_split: first(build.dataset(run.config, data.eval_split), args.images // 5),
    }
    build.dataset = lambda config, split: parts[split]  # the program's own door to its data
    online, cached = (linear_probe.settings(run, name, held_out=0, knn=0) for name in ("online", "cached"))
    short = linear_probe.settings(run, "online", held_out=0, knn=0, epochs=1)
    count = args.images * online.protocol.epochs + args.images // 5
    seconds, best = {}, {}
    with tempfile.TemporaryDirectory() as directory:
        images, _ = parts[data.split].arrays()
        bare(run, online, images, 1)
        seconds["bare"] = bare(run, online, images, count)
        for name, warm, timed in (("online", short, online), ("cached", cached, cached)):
            linear_probe.probe(run, warm, Path(directory) / f"{name}-warm")
            start = time.perf_counter()
            found = linear_probe.probe(run, timed, Path(directory) / name)
            seconds[name] = time.perf_counter() - start
            best[name] = {"layer": found["best"]["layer"], "linear_test": found["best"]["linear_test"]}
    row = {
        "config": f"{run.config.model.name}, width {run.config.model.width}, depth {run.config.model.depth}",
        "data": data.name,
        "images": args.images,
        "layers": len(online.layers),
        "levels": len(online.levels),
        "passes_per_second": len(online.levels) * count / seconds["bare"],
        "seconds": seconds,
        "online_over_bare": seconds["online"] / seconds["bare"],
        "online_over_cached": seconds["online"] / seconds["cached"],
        "bare_over_cached": seconds["bare"] / seconds["cached"],
        "best": best,
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "host": f"{platform.machine()}, {os.cpu_count()} cores",
        "jax": jax.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    print(json.dumps(row, indent=2))
    with args.out.open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    cli.launch(program)
