"""Compares the time of probing a run with the forward passes that DDAE's protocol needs.

    python benchmarks/linear_probe.py --workdir=runs/uvit_cifar --images=1000

DDAE's protocol needs one forward pass for each image, level and epoch. The benchmark probes a part
of the run's data set at the process's levels, with all layers and without kNN, and chooses on the
test split. At each level it times the bare forward passes of the `online` protocol, the `online`
probe and the `cached` probe, all compiled before. The probes' times contain the probe of raw
pixels. A row is appended to ``--out``.
"""

import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine

from ddaepp_jax import build, linear_probe, load
from ddaepp_jax.base import parallel
from ddaepp_jax.base.dispatch import InFlight
from ddaepp_jax.cli.arguments import Parser
from ddaepp_jax.cli.start import launch, start_backend
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.probing.features import make_feature_batch, noisy
from ddaepp_jax.probing.probe import probe
from ddaepp_jax.probing.settings import Settings
from ddaepp_jax.run import Run


def forward_passes(
    run: Run, settings: Settings, images: np.ndarray, level: float, count: int
) -> float:
    """Times ``count`` forward passes from host arrays, with all layers pooled, in seconds.

    Batches have the size of the program's batches.
    """
    features = noisy(run.module, run.process, settings.layers)
    feature_batch = make_feature_batch(features, run.mesh, pad=0, flip=False)
    rows = np.arange(settings.protocol.batch_size, dtype=np.int32)
    in_flight = InFlight()
    start = time.perf_counter()
    for number in range(-(-count // len(rows))):
        pixels, ids = parallel.place(run.mesh, images[(rows + number) % len(images)], rows)
        in_flight.add(
            feature_batch(
                run.params, np.uint32(0), pixels, ids, run.noise_level(level), np.uint32(number)
            )
        )
    in_flight.finish()
    return time.perf_counter() - start


def first(data: Dataset, count: int) -> Dataset:
    """Loads the first ``count`` images of a data set into memory."""
    return dataclasses.replace(data, length=count).resident()


def program(argv: Sequence[str]) -> None:
    parser = Parser("benchmarks.linear_probe", __doc__)
    parser.add_argument("--workdir", required=True, help="run directory")
    parser.add_argument(
        "--images",
        type=int,
        default=1000,
        help="images of the training split (1000); a fifth as many are tested",
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "linear_probe.jsonl"
    )
    args = parser.parse_args(argv)
    start_backend()
    run = load(args.workdir)
    data = run.config.data
    train = first(build.dataset(run.config, data.split), args.images)
    test = first(build.dataset(run.config, data.eval_split), args.images // 5)
    trained = linear_probe.trained(run)
    settings = partial(linear_probe.settings, run, held_out=0, knn=0)
    online = settings("online")
    levels = run.process.probe_levels()
    count = args.images * online.protocol.epochs + args.images // 5
    results_by_protocol = {"online": {}, "cached": {}}
    seconds = dict.fromkeys(("bare", *results_by_protocol), 0.0)
    with tempfile.TemporaryDirectory() as directory:

        def timed_probe(settings: Settings, name: str) -> tuple[dict[str, Any], float]:
            start = time.perf_counter()
            out = Path(directory) / name
            results = probe(trained, train, test, settings, out, data.device_bytes)
            return results, time.perf_counter() - start

        images, _ = train.arrays()
        forward_passes(run, online, images, levels[0], 1)
        for name, epochs in (("online", 1), ("cached", None)):  # Compiles the probes.
            timed_probe(settings(name, levels=levels[:1], epochs=epochs), f"{name}-warm")
        for level in levels:  # Alternate at each level, so that a drift of the machine cancels.
            seconds["bare"] += forward_passes(run, online, images, level, count)
            for name in results_by_protocol:
                results, elapsed = timed_probe(settings(name, levels=(level,)), name)
                results_by_protocol[name] = results
                seconds[name] += elapsed
    model = run.config.model
    row = {
        "config": f"{model.name}, width {model.width}, depth {model.depth}",
        "data": data.name,
        "images": args.images,
        "layers": len(online.layers),
        "levels": len(levels),
        "passes_per_second": len(levels) * count / seconds["bare"],
        "seconds": seconds,
        "online_over_bare": seconds["online"] / seconds["bare"],
        "online_over_cached": seconds["online"] / seconds["cached"],
        "bare_over_cached": seconds["bare"] / seconds["cached"],
        "best": {
            name: {key: results["best"][key] for key in ("layer", "linear_test")}
            for name, results in results_by_protocol.items()
        },
        **machine(),
    }
    print(json.dumps(row, indent=2))
    with args.out.open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    launch(program)
