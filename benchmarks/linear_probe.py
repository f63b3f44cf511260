"""What probing a run costs, against the forward passes that DDAE's protocol needs: one an image,
level and epoch.

    python benchmarks/linear_probe.py --workdir=runs/uvit_cifar --images=1000

A part of the run's data set is probed at the process's levels, all layers, without kNN, chosen on
the test split: at each level the bare forward passes of the `online` protocol, the `online`
  program, and the `cached` one, compiled before
they are timed. The programs' times hold the raw pixels' too. A row goes to ``--out``.
"""

import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np
from machine import machine

from ddaepp_jax import build, linear_probe, load
from ddaepp_jax.base import parallel
from ddaepp_jax.cli.arguments import Parser
from ddaepp_jax.cli.start import launch, start_backend
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.probing import features
from ddaepp_jax.run import Run


def bare(
    run: Run, chosen: linear_probe.Settings, images: np.ndarray, level: float, count: int
) -> float:
    """Seconds of ``count`` forward passes, in the program's batches, from host arrays, all layers
    pooled.
    """
    batch = features.make_feature_batch(
        features.noisy(run.module, run.process, chosen.layers), run.mesh, pad=0, flip=False
    )
    rows = np.arange(chosen.protocol.batch_size, dtype=np.int32)
    start, last = time.perf_counter(), None
    for number in range(-(-count // len(rows))):
        pixels, ids = parallel.place(run.mesh, images[(rows + number) % len(images)], rows)
        found = batch(
            run.params, np.uint32(0), pixels, ids, run.noise_level(level), np.uint32(number)
        )
        jax.block_until_ready(last)  # two are under way, as in the program
        last = found
    jax.block_until_ready(last)
    return time.perf_counter() - start


def first(data: Dataset, count: int) -> Dataset:
    """The first images of a set, in memory."""
    return dataclasses.replace(data, length=count).resident()


def program(argv: Sequence[str]) -> None:
    parser = Parser("benchmarks.linear_probe", __doc__)
    parser.add_argument("--workdir", required=True, help="run directory")
    parser.add_argument(
        "--images", type=int, default=1000, help="of the training split (1000); a fifth for testing"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "linear_probe.jsonl"
    )
    args = parser.parse_args(argv)
    start_backend()
    run = load(args.workdir)
    data = run.config.data
    parts = {
        data.split: first(build.dataset(run.config, data.split), args.images),
        data.eval_split: first(build.dataset(run.config, data.eval_split), args.images // 5),
    }
    build.dataset = lambda config, split: parts[split]  # the program's own door to its data
    probed = {"online": {}, "cached": {}}
    settings = partial(linear_probe.settings, run, held_out=0, knn=0)
    online, levels = settings("online"), run.process.probe_levels()
    count = args.images * online.protocol.epochs + args.images // 5
    seconds = dict.fromkeys(("bare", *probed), 0.0)
    with tempfile.TemporaryDirectory() as directory:
        images, _ = parts[data.split].arrays()
        bare(run, online, images, levels[0], 1)
        for name, epochs in (("online", 1), ("cached", None)):  # compiles
            linear_probe.probe(
                run,
                settings(name, levels=levels[:1], epochs=epochs),
                Path(directory) / f"{name}-warm",
            )
        for (
            level
        ) in levels:  # one after the other at each level, so that a drift of the machine cancels
            seconds["bare"] += bare(run, online, images, level, count)
            for name in probed:
                start = time.perf_counter()
                probed[name] = linear_probe.probe(
                    run, settings(name, levels=(level,)), Path(directory) / name
                )
                seconds[name] += time.perf_counter() - start
    best = {
        name: {k: found["best"][k] for k in ("layer", "linear_test")}
        for name, found in probed.items()
    }
    row = {
        "config": f"{run.config.model.name}, width {run.config.model.width}, depth {run.config.model.depth}",
        "data": data.name,
        "images": args.images,
        "layers": len(online.layers),
        "levels": len(levels),
        "passes_per_second": len(levels) * count / seconds["bare"],
        "seconds": seconds,
        "online_over_bare": seconds["online"] / seconds["bare"],
        "online_over_cached": seconds["online"] / seconds["cached"],
        "bare_over_cached": seconds["bare"] / seconds["cached"],
        "best": best,
        **machine(),
    }
    print(json.dumps(row, indent=2))
    with args.out.open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    launch(program)
