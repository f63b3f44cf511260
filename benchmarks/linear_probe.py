"""What probing costs, against the forward passes that DDAE's protocol needs: one an image, level and epoch.

    python benchmarks/linear_probe.py --config=configs/uvit_cifar.py:small --config.data.data_dir=TFDS_DIR

An untrained network probes a part of the data set (``--images``) at the process's levels, all layers, without kNN:
the bare forward passes of the `online` protocol, then the `online` program, then the `cached` one; each is compiled
before it is timed. A row goes to ``--out``, by default benchmarks/results/linear_probe.jsonl.
"""

import dataclasses
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddaepp_jax import build, cli, linear_probe, load, main
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.evaluation import features, placing, probes
from ddaepp_jax.run import Run


def bare(run: Run, chosen: linear_probe.Settings, train: Dataset, test: Dataset) -> float:
    """Seconds of the forward passes alone: every epoch of the training images, and the test images once."""
    batch = features.make_feature_batch(features.noisy(run.module, run.process, chosen.layers), run.mesh)
    size, count = chosen.protocol.batch_size, len(train) * chosen.protocol.epochs + len(test)
    images, _ = train.arrays()
    rows = np.arange(size, dtype=np.int32)
    start = time.perf_counter()
    for level in chosen.levels:
        last: Any = None
        for number in range(-(-count // size)):
            pixels, ids = placing.place(run.mesh, images[(rows + number) % len(images)], rows)
            found = batch(run.params, np.uint32(0), pixels, ids, run.noise_level(level), np.uint32(number))
            jax.block_until_ready(last)  # two under way, as in the program
            last = found
        jax.block_until_ready(last)
    return time.perf_counter() - start


def program(argv: Sequence[str]) -> None:
    parser = cli.Parser("benchmarks.linear_probe", __doc__)
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]")
    parser.add_argument("--images", type=int, default=2000, help="of the training split; a fifth of it is for testing")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "linear_probe.jsonl")
    args, rest = parser.parse_known_args(argv)
    cli.start_backend()
    config = cli.parse_config([f"--config={args.config}", *rest])
    whole = {split: build.dataset(config, split) for split in (config.data.split, config.data.eval_split)}
    small = {
        name: dataclasses.replace(data, length=args.images // (1, 5)[i]).resident()
        for i, (name, data) in enumerate(whole.items())
    }
    build.dataset = lambda config, split: small[split]
    directory = Path(tempfile.mkdtemp())
    config.train.steps, config.train.batch_size = 1, jax.device_count()
    for name in config.evals:
        config.evals[name].every = 0
    main.train_and_evaluate(config, directory / "run")
    run = load(directory / "run")
    seconds = {}
    for name in ("bare", "online", "cached"):
        protocol = "online" if name == "bare" else name
        for epochs in (1, None):  # the first is for compiling
            chosen = linear_probe.settings(run, protocol, held_out=0, knn=0, epochs=epochs)
            start = time.perf_counter()
            if name == "bare":
                seconds[name] = bare(run, chosen, *small.values())
            else:
                linear_probe.probe(run, chosen, directory / f"{name}-{epochs}")
                seconds[name] = time.perf_counter() - start
    shutil.rmtree(directory)
    passes = len(chosen.levels) * (args.images * probes.PROTOCOLS["online"].epochs + args.images // 5)
    row = {
        "config": args.config,
        "images": args.images,
        "test_images": args.images // 5,
        "layers": len(chosen.layers),
        "levels": len(chosen.levels),
        "passes_per_second": passes / seconds["bare"],
        "seconds": seconds,
        "online_over_bare": seconds["online"] / seconds["bare"],
        "online_over_cached": seconds["online"] / seconds["cached"],
        "bare_over_cached": seconds["bare"] / seconds["cached"],
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
