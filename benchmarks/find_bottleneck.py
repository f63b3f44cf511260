"""What searching for the bottleneck costs beside as many separate runs, compilation included, as
JSON lines.

    python benchmarks/find_bottleneck.py --config=configs/uvit_cifar.py:study --candidates=in_1,mid
    --steps=50

Images are random bytes in the shape of the data. Each separate run compiles its own program; the
persistent compilation cache is off. Seconds are of the wall and of the processor: on a shared
machine the second is the steadier one. Rows go to ``--out``, by default
benchmarks/results/find_bottleneck.jsonl.
"""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from machine import machine
from ml_collections import ConfigDict
from train_step import random_images

from ddaepp_jax import build, cli, find_bottleneck
from ddaepp_jax.config import overrides
from ddaepp_jax.training.program import compile_program


def separate(config: ConfigDict, name: str) -> None:
    """A run of its own, with ``name`` for its bottleneck, without the number as data."""
    config = config.copy_and_resolve_references()
    config.model.bottleneck = name
    data, mesh = build.dataset(config, config.data.split), build.mesh(config)
    learner = build.learner(config, data.image_shape, data.num_classes, config.train.steps)
    source = build.source(config, data, mesh)
    program = compile_program(learner, mesh, config.mesh.rules, source, build.prepare(config))
    find_bottleneck._curve(program, program.init(), source, config.train, mesh, lambda steps: None)


def seconds(work: Callable[[], object]) -> dict[str, float]:
    jax.clear_caches()
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}


def measure(config: ConfigDict, candidates: Sequence[str]) -> dict[str, object]:
    """One seed."""
    with tempfile.TemporaryDirectory() as out:
        how = dict(candidates=candidates, steps=config.train.steps, seeds=(config.seed,))
        shared = seconds(lambda: find_bottleneck.search(config, Path(out), **how))
    alone = {name: seconds(lambda name=name: separate(config, name)) for name in candidates}
    total = {clock: sum(one[clock] for one in alone.values()) for clock in shared}
    ratio = {clock: shared[clock] / total[clock] for clock in shared}
    return {"search_seconds": shared, "separate_seconds": total, "ratio": ratio}


def program(argv: Sequence[str]) -> None:
    parser = cli.Parser("benchmarks.find_bottleneck", __doc__)
    add = parser.add_argument
    add("--config", required=True, metavar="FILE[:VARIANT]", help="--config.FIELD=VALUE changes it")
    add("--candidates", type=cli.several(str), required=True, help="blocks, with commas")
    add("--steps", type=int, default=50)
    add("--out", type=Path, default=Path(__file__).parent / "results" / "find_bottleneck.jsonl")
    args, changes = parser.parse_known_args(argv)
    config = overrides.parse_config([f"--config={args.config}", *changes])
    config.train.update(steps=args.steps, epochs=None, images=None)
    jax.config.update("jax_enable_compilation_cache", False)
    build.dataset = lambda config, split: random_images(config)
    row = {
        "config": args.config,
        "changes": changes,
        "candidates": args.candidates,
        "steps": args.steps,
    }
    row |= measure(config, args.candidates) | machine()
    print(json.dumps(row, indent=2))
    with args.out.open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    cli.launch(program)
