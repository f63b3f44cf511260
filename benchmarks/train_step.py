r"""Measures the train step: throughput, MFU, compile time, memory and the input path.

    python benchmarks/train_step.py --config=configs/uvit_digits.py \
        --config=configs/uvit_cifar.py:small
    python benchmarks/train_step.py --config=configs/uvit_cifar.py \
        --pair=model.self_condition --batch_size=4

``--config.FIELD=VALUE`` changes a field of every config. Images are random bytes in the shape of
the data, so no data set is needed.

``--pair=FIELD`` compares a boolean field on with off, and ``--pair=FIELD=A,B`` its value B with A:
by XLA's cost analysis of the whole step and of the loss alone, and by interleaved timing pairs with
a 95 % interval, because single steps scatter by several percent on a shared machine. XLA counts the
bytes of a scan's body once; measure bytes with --config.model.scan=False.

``--topology=v5e:2x2`` compiles the pair for four TPU chips and reports their memory, which a CPU's
memory does not predict. It needs libtpu, but no TPU. Rows are appended to ``--out``, by default
benchmarks/results/train_step.jsonl, as JSON lines.
"""

import argparse
import ast
import dataclasses
import json
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh
from machine import machine
from ml_collections import ConfigDict

from ddaepp_jax import build
from ddaepp_jax.base import parallel
from ddaepp_jax.config.overrides import parse_config
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.training.clock import peak_flops
from ddaepp_jax.training.program import Program, compile_program
from ddaepp_jax.training.source import Source
from ddaepp_jax.training.step import TrainState, init_state, total_loss, train_step

SHAPES = {"digits": (8, 8, 1), "cifar10": (32, 32, 3), "latents": (16, 16, 32)}
EXAMPLES = 4096


def random_images(shape: tuple[int, int, int]) -> Dataset:
    """Returns a labelled data set of random bytes with images of (H, W, C)."""
    images = np.random.default_rng(0).integers(0, 256, (EXAMPLES, *shape), np.uint8)
    labels = (np.arange(EXAMPLES) % 10).astype(np.int32)
    names = tuple("0123456789")
    return Dataset(
        "random", "train", shape, 10, names, EXAMPLES, lambda rows: (images[rows], labels[rows])
    )


def compiled(config: ConfigDict, data: Dataset, mesh: Mesh) -> tuple[Program, Source]:
    """Compiles the train program, and returns it with its source of batches."""
    learner = build.learner(
        config, data.image_shape, data.num_classes, total=2**30 // config.train.batch_size
    )
    source = build.source(config, data, mesh)
    return compile_program(learner, mesh, config.mesh.rules, source, build.prepare(config)), source


class Step:
    """One compiled train program with its state.

    ``network`` are the network's parameters at step 0; None: the program's own.
    """

    def __init__(self, config: ConfigDict, data: Dataset, network: Any = None) -> None:
        self.mesh = build.mesh(config)
        self.program, self.source = compiled(config, data, self.mesh)
        self._state = self.program.init()
        if network is not None:
            params = self._state.params | {"network": network}
            placements = jax.tree.map(lambda leaf: leaf.sharding, self._state.params)
            averages = {
                name: jax.device_put(params, placements, may_alias=False)
                for name in self._state.ema
            }
            params = jax.device_put(params, placements, may_alias=False)
            self._state = self._state.replace(params=params, ema=averages)
        self._step = 0
        self._batches: Iterator[Any] = self.source.open(0, 2**30 // config.train.batch_size)

    def __call__(self, steps: int) -> float:
        """Takes ``steps`` steps, waits for them, and returns the seconds that they took."""
        self._step += steps
        limit = parallel.put(np.int32(self._step), parallel.replicated(self.mesh))
        totals = self.program.zeros()
        start = time.perf_counter()
        for _ in range(1 if self.source.looped else steps):
            self._state, totals, _ = self.program.run(
                self._state, totals, next(self._batches), limit
            )
        jax.block_until_ready(totals)
        return time.perf_counter() - start


def input_path(config: ConfigDict, source: Source) -> Callable[[int], float]:
    """Returns a function that fetches and prepares the batches of a number of steps.

    The function does not take the steps; it returns the seconds that the batches took.
    """
    prepare = build.prepare(config)
    batches = source.open(0, 2**30 // config.train.batch_size)

    def fetch(data: Any, step: jax.Array) -> jax.Array:
        batch = source.fetch(data, step)
        return prepare(batch["image"], step, batch["index"])

    compiled_fetch = jax.jit(fetch)
    numbers = [jax.device_put(np.int32(step)) for step in range(100)]
    jax.block_until_ready(compiled_fetch(next(batches), numbers[0]))

    def run(steps: int) -> float:
        start = time.perf_counter()
        jax.block_until_ready(
            [compiled_fetch(next(batches), numbers[step % 100]) for step in range(steps)]
        )
        return time.perf_counter() - start

    return run


def peak_memory() -> int:
    """Returns the peak memory in bytes.

    It is the device's peak if the device reports one, else the process's peak resident size.
    """
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def measure(config: ConfigDict, seconds: float) -> dict[str, Any]:
    """Measures one config: medians over 5 chunks of steps of about a fifth of ``seconds`` each."""
    data = random_images(SHAPES[config.data.name])
    step = Step(config, data)
    once = min(step(1) for _ in range(3))
    steps = max(1, int(seconds / 5 / once))
    per_step = float(np.median([step(steps) / steps for _ in range(5)]))
    fetch = input_path(config, step.source)
    per_fetch = float(np.median([fetch(20) / 20 for _ in range(5)]))
    program = step.program
    peak = peak_flops(step.mesh.devices.flat[0].device_kind)
    return {
        "images_per_second": config.train.batch_size / per_step,
        "step_ms": per_step * 1e3,
        "gflop_per_step_and_device": program.flops / 1e9,
        "gflops_per_second": program.flops / per_step / 1e9,
        "mfu": program.flops / per_step / peak if peak else None,
        "compile_seconds": program.compile_seconds,
        "program_bytes": program.memory,
        "peak_bytes": peak_memory(),
        "input_ms": per_fetch * 1e3,
        "input_times_faster_than_step": per_step / per_fetch,
    }


def xla_flops(config: ConfigDict, data: Dataset) -> tuple[float, float]:
    """Returns the FLOPs of the step and of the loss alone, by XLA's count on one device.

    They are counted before compilation, and a scan is unrolled, since its body would count once.
    """
    learner = build.learner(config, data.image_shape, data.num_classes, total=1000)
    if getattr(learner.network, "scan", False):
        learner = dataclasses.replace(learner, network=learner.network.clone(scan=False))
    rows = config.train.batch_size
    image = jax.ShapeDtypeStruct((rows, *data.image_shape), np.uint8)
    number = jax.ShapeDtypeStruct((rows,), np.int32)

    def batch(state: TrainState, image: jax.Array, label: jax.Array, index: jax.Array) -> Any:
        return {"label": label, **build.prepare(config)(image, state.step, index)}

    step = lambda state, *arrays: train_step(learner, state, batch(state, *arrays))
    loss = lambda state, *arrays: total_loss(learner, state.params, state, batch(state, *arrays))
    state = jax.eval_shape(lambda: init_state(learner, data.image_shape))
    lowered = [jax.jit(part).lower(state, image, number, number) for part in (step, loss)]
    return tuple(each.cost_analysis()["flops"] for each in lowered)


def pair_configs(config: ConfigDict, pair: str) -> list[ConfigDict]:
    """Returns the two configs of ``pair``: FIELD (off, on) or FIELD=A,B."""
    field, _, values = pair.partition("=")
    configs = []
    for value in (values or "False,True").split(","):
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict({field: ast.literal_eval(value)})
        configs.append(changed)
    return configs


def analysed(
    configs: Sequence[ConfigDict], data: Dataset, programs: Sequence[Program]
) -> dict[str, float]:
    """Returns the ratios of the second config to the first in the compiler's analysis."""
    base, other = programs
    counts = [xla_flops(config, data) for config in configs]
    steps, losses = np.array(counts).T
    backward = steps - losses
    base_size, other_size = (
        sum(leaf.size for leaf in jax.tree.leaves(p.state.params)) for p in programs
    )
    return {
        "flops_ratio": steps[1] / steps[0],
        "forward_flops_ratio": losses[1] / losses[0],
        "backward_flops_ratio": backward[1] / backward[0],
        "bytes_ratio": other.bytes_accessed / base.bytes_accessed,
        "memory_ratio": other.memory / base.memory,
        "parameter_ratio": other_size / base_size,
    }


def measure_pair(configs: Sequence[ConfigDict], pairs: int) -> dict[str, Any]:
    """Compares the second config with the first, by cost analysis and interleaved step times."""
    data = random_images(SHAPES[configs[0].data.name])
    steps = [Step(config, data) for config in configs]
    for step in steps:
        for _ in range(3):
            step(1)
    ratios = np.empty(pairs)
    for i in range(pairs):  # The first of a pair alternates, so that a drift cancels.
        seconds = {number: steps[number](1) for number in ((0, 1), (1, 0))[i % 2]}
        ratios[i] = seconds[1] / seconds[0]
    logs = np.log(ratios)
    half = 1.96 * logs.std(ddof=1) / pairs**0.5
    return {
        "pairs": pairs,
        "time_ratio": float(np.exp(logs.mean())),
        "time_ratio_95": [float(np.exp(logs.mean() - half)), float(np.exp(logs.mean() + half))],
        "time_ratio_median": float(np.median(ratios)),
        **analysed(configs, data, [step.program for step in steps]),
    }


def compile_pair(configs: Sequence[ConfigDict], topology: str) -> dict[str, Any]:
    """Compares by the compiler's analysis alone, for TPUs that need not be present."""
    data = random_images(SHAPES[configs[0].data.name])
    devices = topologies.get_topology_desc(topology, "tpu").devices
    mesh = parallel.make_mesh((-1, 1, 1), list(devices))
    for config in configs:
        config.model.attention = "xla"  # "auto" would look at the host, which has no TPU.
    programs = [compiled(config, data, mesh)[0] for config in configs]
    return {
        "device": devices[0].device_kind,
        "devices": len(devices),
        "memory_bytes": [program.memory for program in programs],
        **analysed(configs, data, programs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", action="append", required=True, help="config file[:variant]; may be repeated"
    )
    parser.add_argument("--batch_size", type=int, help="images of a batch (default: the config's)")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="stream the images instead of holding them on the device",
    )
    parser.add_argument(
        "--pair", metavar="FIELD[=A,B]", help="a field to compare: on against off, or B against A"
    )
    parser.add_argument("--pairs", type=int, default=40, help="number of timing pairs (40)")
    parser.add_argument(
        "--topology", help="compile the pair for TPUs, e.g. v5e:2x2; needs libtpu and no TPU"
    )
    parser.add_argument("--seconds", type=float, default=20, help="seconds of timing a config (20)")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "train_step.jsonl"
    )
    args, changes = parser.parse_known_args()  # --config.FIELD=VALUE
    for name in args.config:
        overrides = [f"--config.train.batch_size={args.batch_size}"] if args.batch_size else []
        if args.stream:
            overrides.append("--config.data.device_bytes=0")
        config = parse_config([f"--config={name}", *overrides, *changes])
        row = {
            "config": name,
            "changes": changes,
            "batch_size": config.train.batch_size,
            "streamed": args.stream,
            "dtype": config.model.dtype,
            **machine(),
        }
        if args.pair:
            row["pair"] = args.pair
            configs = pair_configs(config, args.pair)
            if args.topology:
                row |= compile_pair(configs, args.topology)
            else:
                row |= measure_pair(configs, args.pairs)
        else:
            row |= measure(config, args.seconds)
        print(json.dumps(row, indent=2))
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
