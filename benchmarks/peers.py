r"""Measures this package beside plain PyTorch networks, and both beside the machine's limit.

    python benchmarks/peers.py
    python benchmarks/peers.py --case=uvit_small --task=train --minutes=5
    python benchmarks/peers.py --case=uvit_small --profile

The networks of benchmarks/twins/ are written from the papers. Each gets the weights of ours, and
the losses of both are compared on the same images, noise and levels: where they differ by more than
1e-4 of the loss, the rows are void and the exit code is 1. The twin runs eagerly or by
``torch.compile``, channels last or not, with the fused optimizer or not, whichever is fastest here.
On a GPU both compute in bfloat16.

The tasks are the train step (gradient, optimizer, one average), the forward pass, DDIM in 50
steps, features of one layer at one noise level, and a grid of linear probes. Ours and the twin take
turns in one process, and the first of a pair alternates; the ratio's 95 % interval is that of the
pairs' logarithms. The floor is the time of the products at the fastest measured rate of products of
these shapes, or that of the weights' bytes at a triad's bandwidth, whichever is longer.

A row is appended to ``--out`` for each case and task. Rows of this commit, machine and date that
are there already are not measured again, so a stopped run continues. ``--profile`` prints instead
where a train step of ours spends its time on a CPU.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Idle threads of PyTorch's OpenMP sleep, so that they take nothing from JAX's; both libraries share
# a GPU's memory.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import numpy as np
import torch
import twins
from floor import bandwidth, count_products, peak, product_shapes, synchronised
from machine import machine
from ml_collections import ConfigDict
from op_times import by_class, op_times
from tabulate import tabulate
from torch import Tensor
from train_step import Step, random_images
from twins import work
from twins.work import Diffusion, Mode

from ddaepp_jax import build
from ddaepp_jax.base import parallel
from ddaepp_jax.config import default
from ddaepp_jax.config.overrides import parse_config
from ddaepp_jax.diffusion.noise import image_keys, image_noise
from ddaepp_jax.probing import heads
from ddaepp_jax.probing.features import Extraction, extract, noisy
from ddaepp_jax.probing.protocols import PROTOCOLS
from ddaepp_jax.probing.scaling import standard_scale
from ddaepp_jax.sampling.draw import make_draw
from ddaepp_jax.sampling.settings import Sampling

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-4  # largest relative difference of the losses
DDIM_STEPS = 50
LEVEL = 11  # of DDPM's 1000; features are read there
FEWEST = 6  # pairs of timings
MOST = 40
# Goals: our time over the twin's, on two CPU cores.
GOALS = {
    ("uvit_s2", "train"): 0.70,
    ("uvit_small", "train"): 0.85,
    ("unet", "train"): 1.0,
    ("dit_b2", "train"): 0.80,
}
TASK_GOALS = {"forward": 0.60, "ddim": 0.60, "features": 0.60}


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and the sizes at which it is measured.

    Attributes:
      config: config file and variant.
      time_input: the network's form of DDPM's time.
      batch_size: images of a train step and of a forward pass.
      steps: train steps of one measurement; ours takes them in one dispatch.
      drawn: images that DDIM draws.
      images: images whose features are computed.
      probed: images on which heads are trained and tested; none: no probe.
      image_shape: (H, W, C).
      model: fields of ``config.model``.
    """

    config: str
    time_input: str
    batch_size: int
    steps: int
    drawn: int
    images: int
    probed: tuple[int, ...] = ()
    image_shape: tuple[int, int, int] = (32, 32, 3)
    model: dict[str, Any] = dataclasses.field(default_factory=dict)


DIT_B = dict(
    width=768, depth=12, num_heads=12, rope=False, rmsnorm=False, swiglu=False, bottleneck="block_6"
)
CASES = {
    "uvit_s2": Case("uvit_cifar.py", "999t/T", batch_size=8, steps=1, drawn=2, images=64),
    "uvit_small": Case(
        "uvit_cifar.py:small", "999t/T", 128, steps=4, drawn=32, images=1024, probed=(2048, 512)
    ),
    "unet": Case("unet_ddpm_cifar.py", "t/T", batch_size=8, steps=1, drawn=2, images=64),
    "dit_b2": Case(
        "dit_s_cifar.py", "t-1", 8, steps=1, drawn=2, images=64, image_shape=(32, 32, 4),
        model=DIT_B,
    ),
    "dit_patch2": Case(
        "dit_s_cifar.py:small", "t-1", 128, steps=4, drawn=32, images=1024, probed=(2048, 512),
        image_shape=(16, 16, 3), model=dict(patch_size=2),
    ),
}  # fmt: skip


def config_of(case: Case) -> ConfigDict:
    """Returns the config of a case: no self-conditioning, DDPM, DDIM; bfloat16 on a GPU only."""
    config = parse_config([f"--config={ROOT / 'configs' / case.config}"])
    with config.unlocked():
        config.diffusion = default.ddpm(time_input=case.time_input)
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    config.model.update(self_condition=False, dtype=dtype, **case.model)
    config.train.batch_size = case.batch_size
    config.sampling.update(sampler="ddim", steps=DDIM_STEPS, batch_size=case.drawn)
    config.sampling.ddim.table = "standard"
    return config


@dataclasses.dataclass(frozen=True)
class Task:
    """One kind of work, ours and the twin's.

    Attributes:
      ours: does our work once and waits for it.
      twin: returns the same function of the twin in a mode.
      trains: whether the optimizer is part of it.
      products: FLOPs of its matrix products and convolutions (of one step, where it trains).
      weight_bytes: bytes of weights, and of what the optimizer keeps, that it has to move.
      per: number by which times are divided: the train steps that a call takes.
      compiled_flops: FLOPs of our program by XLA's count; None: not asked.
    """

    ours: Callable[[], Any]
    twin: Callable[[Mode], Callable[[], Any]]
    products: float
    weight_bytes: float
    trains: bool = False
    per: int = 1
    compiled_flops: float | None = None


class Pair:
    """Our network and its twin, with the same weights."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.config = config_of(case)
        self.data = random_images(case.image_shape)
        self.images, self.labels = self.data.arrays()
        self.process = build.process(self.config)
        self.network = build.network(self.config, case.image_shape, self.data.num_classes)
        self.mesh = parallel.make_mesh((-1, 1, 1))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        weights = twins.make(self.network, case.image_shape).state_dict()
        params = twins.as_ours(self.network, case.image_shape, weights)
        self.params = jax.device_put(params, parallel.replicated(self.mesh))
        self.weights = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        self._products: dict[Any, float] = {}

    def twin(self, mode: Mode) -> Diffusion:
        """Returns the twin in a mode, with weights of its own."""
        twin = twins.make(self.network, self.case.image_shape)
        return Diffusion(twin, self.process, mode, self.device)

    def loss_difference(self) -> float:
        """Returns the relative difference of the losses in float32, on the same weights and noise.

        Neither network drops out.
        """
        shape = (self.case.batch_size, *self.case.image_shape)
        rng = np.random.default_rng(0)
        x0 = self.images[: shape[0]].astype(np.float32) / 127.5 - 1
        noise = rng.standard_normal(shape, np.float32)
        t = rng.integers(1, self.process.num_steps + 1, shape[:1]).astype(np.int32)
        network = self.network.clone(dtype=np.dtype("float32"), attention="xla")

        def loss(params: Any, x0: Any, noise: Any, t: Any) -> jax.Array:
            x, time = self.process.inputs(self.process.perturb(x0, noise, t), t)
            out, _ = network.apply({"params": params}, x, time, capture=())
            return self.process.loss_terms(out, x0, noise, t).mean()

        with jax.default_matmul_precision("highest"):
            ours = float(jax.jit(loss)(self.params, x0, noise, t))
        torch.backends.cudnn.allow_tf32 = False
        twin = self.twin(Mode())
        x0, noise = (self.channels_first(x) for x in (x0, noise))
        times = torch.from_numpy(t).long().to(self.device)
        with torch.inference_mode():
            x_t = twin.perturbed(x0, noise, times)
            theirs = (twin.model(x_t, twin.fed_time(times)) - noise).square().mean().item()
        torch.backends.cudnn.allow_tf32 = True
        return abs(ours / theirs - 1)

    def channels_first(self, x: np.ndarray) -> Tensor:
        """Returns an array (B, H, W, C) as a tensor (B, C, H, W) on the twin's device."""
        return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).to(self.device)

    def products(self, layers: tuple[str, ...] | None = None) -> float:
        """Returns the FLOPs of one image's products, in a forward pass or up to ``layers``."""
        if layers not in self._products:
            twin = self.twin(Mode())
            x = torch.zeros(1, *self.case.image_shape[::-1], device=self.device)
            t = torch.zeros(1, device=self.device)
            with torch.no_grad():
                self._products[layers] = count_products(lambda: twin.model(x, t, layers))
        return self._products[layers]


def train(pair: Pair) -> Task:
    """The train step: images, noise, loss, gradient, optimizer and one average of the weights."""
    steps, batch = pair.case.steps, pair.case.batch_size
    ours = Step(pair.config, pair.data, pair.params)

    def twin(mode: Mode) -> Callable[[], Any]:
        training = work.Training(pair.twin(mode), pair.images, pair.config, mode)
        return lambda: training(steps)

    return Task(
        lambda: ours(steps),
        twin,
        # Gradients of weights and of inputs take a forward pass's products each, but for the
        # first layer's.
        products=3 * batch * pair.products(),
        # Weights, both moments and the average are read and written; the gradient is written and
        # read; the forward and the backward pass read the weights.
        weight_bytes=4 * pair.weights * (2 * 4 + 2 + 2),
        trains=True,
        per=steps,
        compiled_flops=ours.program.flops,
    )


def forward(pair: Pair) -> Task:
    """The forward pass of a batch."""
    batch = pair.case.batch_size
    x = np.random.default_rng(0).standard_normal((batch, *pair.case.image_shape), np.float32)
    t = np.full(batch, 500, np.int32)
    apply = jax.jit(
        lambda params, x, t: pair.network.apply(
            {"params": params}, *pair.process.inputs(x, t), capture=()
        )[0]
    )
    placed = parallel.place(pair.mesh, x, t)

    def twin(mode: Mode) -> Callable[[], Any]:
        diffusion = pair.twin(mode)
        image = pair.channels_first(x)
        time = diffusion.fed_time(torch.from_numpy(t).to(pair.device))
        return lambda: diffusion.forward(image, time)

    return Task(
        lambda: jax.block_until_ready(apply(pair.params, *placed)),
        twin,
        batch * pair.products(),
        4 * pair.weights,
    )


def ddim(pair: Pair) -> Task:
    """Images by DDIM, from the noise to bytes on the host."""
    count = pair.case.drawn
    shape = pair.case.image_shape
    sampling = Sampling.from_config(pair.config.sampling)
    draw = make_draw(pair.network, pair.process, sampling, image_shape=shape, mesh=pair.mesh)
    ids = np.arange(count)
    noise = np.asarray(image_noise(image_keys(0, "sample", ids), shape))

    def twin(mode: Mode) -> Callable[[], Any]:
        diffusion = pair.twin(mode)
        start = pair.channels_first(noise)
        return lambda: diffusion.ddim(start, DDIM_STEPS)

    return Task(
        lambda: np.concatenate(list(draw(pair.params, 0, ids))),
        twin,
        DDIM_STEPS * count * pair.products(),
        DDIM_STEPS * 4 * pair.weights,
    )


def extraction(pair: Pair, layers: tuple[str, ...], level: int) -> Extraction:
    """Returns how our features are computed at a level, in batches as large as the program's."""
    return Extraction(
        noisy(pair.network, pair.process, layers),
        pair.params,
        pair.mesh,
        pair.process.as_level(level),
        batch_size=min(pair.case.images, 256),
    )


def features(pair: Pair) -> Task:
    """Pooled features of the bottleneck's block, from bytes to arrays on the host."""
    count = pair.case.images
    layers = (pair.network.bottleneck,)
    images, ids = pair.images[:count], np.arange(count)
    ours = extraction(pair, layers, LEVEL)

    def twin(mode: Mode) -> Callable[[], Any]:
        diffusion = pair.twin(mode)
        return lambda: diffusion.features(images, LEVEL, layers, ours.batch_size)

    return Task(
        lambda: extract(ours, lambda rows: images[rows], ids),
        twin,
        count * pair.products(layers),
        # The weights up to the layer, taken to be as many as its products are.
        4 * pair.weights * pair.products(layers) / pair.products() * (count // ours.batch_size),
    )


def probe(pair: Pair) -> Task:
    """A grid of linear probes: all layers at the process's levels, on stored features."""
    trained, tested = pair.case.probed
    protocol = PROTOCOLS["cached"]
    classes = pair.data.num_classes
    layers = tuple(build.layers(pair.network, pair.case.image_shape))[:-1]  # without "bottleneck"
    levels = pair.process.probe_levels()
    ids = np.arange(trained + tested)
    images, labels = pair.images[ids], pair.labels[ids]
    size = min(pair.case.images, 256)

    def split(stored: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], ...]:
        parts = slice(None, trained), slice(trained, None)
        return tuple({layer: feature[part] for layer, feature in stored.items()} for part in parts)

    def ours() -> list[dict[str, float]]:
        accuracies = []
        for level in levels:
            own = extraction(pair, layers, level)
            train, test = split(extract(own, lambda rows: images[rows], ids))
            scales = standard_scale(train)
            fitted = heads.fit(train, labels[:trained], scales, protocol, num_classes=classes)
            rates = heads.accuracies(fitted, test, labels[trained:], scales)
            accuracies.append({layer: float(each.max()) for layer, each in rates.items()})
        return accuracies

    def twin(mode: Mode) -> Callable[[], Any]:
        diffusion = pair.twin(mode)

        def call() -> list[dict[str, float]]:
            accuracies = []
            for level in levels:
                train, test = split(diffusion.features(images, level, layers, size))
                parts = train, labels[:trained], test, labels[trained:]
                accuracies.append(work.probe(*parts, protocol, classes))
            return accuracies

        return call

    steps = heads.total_steps(trained, protocol.epochs, protocol.batch_size)
    shapes = extract(extraction(pair, layers, LEVEL), lambda rows: images[rows], ids[:1])
    width = sum(feature.shape[1] for feature in shapes.values())
    # A head's step has two products, its logits and its gradient.
    head_products = steps * 4 * protocol.batch_size * width * classes * len(protocol.learning_rates)
    passes = len(ids) * pair.products(layers)
    return Task(ours, twin, len(levels) * (passes + head_products), 0.0)


TASKS = {"train": train, "forward": forward, "ddim": ddim, "features": features, "probe": probe}


def agreement(pair: Pair) -> dict[str, float]:
    """Returns how much losses and clean images' features differ, each relative to its size."""
    layers = (pair.network.bottleneck,)
    images = pair.images[: pair.case.batch_size]
    own = extraction(pair, layers, 0)
    ours = extract(own, lambda rows: images[rows], np.arange(len(images)))[layers[0]]
    theirs = pair.twin(Mode()).features(images, 0, layers, len(images))[layers[0]]
    return {
        "loss_difference": pair.loss_difference(),
        "feature_difference": float(np.abs(ours - theirs).max() / np.abs(theirs).max()),
    }


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Returns the wall and the processor seconds of a call."""
    start, cpu = time.perf_counter(), time.process_time()
    synchronised(call())
    return time.perf_counter() - start, time.process_time() - cpu


def fastest(task: Task, convolutional: bool, compile: bool) -> tuple[Mode, Any, dict[str, Any]]:
    """Returns the twin's fastest mode, its function, and the milliseconds of what was tried.

    One choice after another is made: the optimizer, the layout, ``torch.compile``.
    """
    tried: dict[str, Any] = {}

    def measured(mode: Mode) -> tuple[float, Callable[[], Any]]:
        call = task.twin(mode)
        timed(call)
        seconds = min(timed(call)[0] for _ in range(2))
        name = f"{mode}{'' if mode.fused or not task.trains else ', foreach'}"
        tried[name] = round(1e3 * seconds / task.per, 2)
        return seconds, call

    best = Mode()
    seconds, call = measured(best)
    changes = [{"fused": False}] if task.trains else []
    changes += [{"channels_last": True}] if convolutional else []
    changes += [{"compiled": True}] if compile else []
    for change in changes:
        mode = dataclasses.replace(best, **change)
        try:
            other, changed = measured(mode)
        except Exception as error:  # e.g. no C++ compiler
            tried[str(mode)] = f"failed: {type(error).__name__}"
            continue
        if other < seconds:
            best, seconds, call = mode, other, changed
    return best, call, tried


def interleaved(ours: Callable[[], Any], twin: Callable[[], Any], seconds: float) -> np.ndarray:
    """Times pairs for about ``seconds``; the first of a pair alternates.

    A call that is not timed goes before each: memory that the other side gave back, and caches that
    it filled, cost the next call up to a third more, which a step after a step does not pay.

    Returns:
      (pairs, 2, 2): ours and the twin's wall and processor seconds; the first pair began with ours.
    """
    calls = (ours, twin)
    pairs: list[list[tuple[float, float]]] = []
    end = time.perf_counter() + seconds
    while (
        len(pairs) < FEWEST or len(pairs) % 2 or (time.perf_counter() < end and len(pairs) < MOST)
    ):
        pair: list[Any] = [None, None]
        for side in ((0, 1), (1, 0))[len(pairs) % 2]:
            calls[side]()
            pair[side] = timed(calls[side])
        pairs.append(pair)
    return np.array(pairs)


def ratios(times: np.ndarray) -> dict[str, Any]:
    """Returns the ratios of ours to the twin's of ``interleaved``'s times."""
    logs = np.log(times[:, 0] / times[:, 1])  # (pairs, wall and processor)
    mean = logs.mean(0)
    half = 1.96 * logs.std(0, ddof=1) / len(logs) ** 0.5
    of = lambda log: round(float(np.exp(log)), 4)
    return {
        "ratio": of(mean[0]),
        "ratio_95": [of(mean[0] - half[0]), of(mean[0] + half[0])],
        "ratio_ours_first": of(logs[::2, 0].mean()),
        "ratio_twin_first": of(logs[1::2, 0].mean()),
        "cpu_ratio": of(mean[1]),
        "cpu_ratio_95": [of(mean[1] - half[1]), of(mean[1] + half[1])],
    }


def measure(task: Task, limits: tuple[float, float], seconds: float, trial: Any) -> dict[str, Any]:
    """Measures one task; ``limits`` are FLOPs and bytes a second, ``trial`` is of ``fastest``."""
    mode, twin, tried = trial
    timed(task.ours)
    load = os.getloadavg()[0]
    times = interleaved(task.ours, twin, seconds)
    wall, cpu = np.median(times / task.per * 1e3, axis=0).T
    flops, triad = limits
    floor = (
        1e3 / task.per * max(task.per * task.products / flops, task.per * task.weight_bytes / triad)
    )
    return {
        "ours_ms": round(wall[0], 3),
        "twin_ms": round(wall[1], 3),
        **ratios(times),
        "ours_cpu_ms": round(cpu[0], 3),
        "twin_cpu_ms": round(cpu[1], 3),
        "pairs": len(times),
        "twin": str(mode),
        "optimizer": ("fused" if mode.fused else "foreach") if task.trains else None,
        "tried_ms": tried,
        "gflop_of_products": task.products / 1e9,
        "gflop_by_xla": task.compiled_flops and task.compiled_flops / 1e9,
        "gbyte_of_weights": task.weight_bytes / 1e9,
        "peak_gflops": flops / 1e9,
        "triad_gbytes": triad / 1e9,
        "floor_ms": floor,
        "ours_over_floor": wall[0] / floor,
        "twin_over_floor": wall[1] / floor,
        "load": [load, os.getloadavg()[0]],
    }


def commit() -> str:
    """Returns the last commit of the code, with a mark if it is changed; "" outside of git."""
    code = ["--", "ddaepp_jax", "benchmarks/*.py", "benchmarks/twins"]

    def git(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["git", *arguments, *code], cwd=ROOT, capture_output=True, text=True, check=False
        )

    changed = git("diff", "--quiet", "HEAD").returncode == 1
    return git("log", "-1", "--format=%h").stdout.strip() + ("-dirty" if changed else "")


def measure_case(name: str, tasks: Sequence[str], args: argparse.Namespace, known: dict) -> None:
    """Measures the tasks of a case, and appends and prints their rows."""
    pair = Pair(CASES[name])
    differences = agreement(pair)
    void = not all(difference <= TOLERANCE for difference in differences.values())
    shapes = product_shapes(pair.network, pair.case.image_shape, pair.case.batch_size)
    limits = peak(shapes, pair.device), bandwidth(pair.device)
    for task_name in tasks:
        row = {
            "case": name,
            "task": task_name,
            "batch_size": pair.case.batch_size,
            "parameters": pair.weights,
            "goal": GOALS.get((name, task_name), TASK_GOALS.get(task_name)),
            **differences,
            "void": void,
            **known,
        }
        if not void:
            task = TASKS[task_name](pair)
            trial = fastest(task, hasattr(pair.network, "mults"), not args.eager)
            row |= measure(task, limits, 60 * args.minutes, trial)
            del task, trial
        print(json.dumps(row), flush=True)
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the rows as a table in Markdown."""
    cells = []
    for row in rows:
        if row["void"]:
            cells.append([row["case"], row["task"], "void"])
            continue
        low, high = row["ratio_95"]
        cells.append(
            [
                row["case"],
                row["task"],
                f"{row['ours_ms']:.4g}",
                f"{row['twin_ms']:.4g}",
                f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})",
                row["goal"],
                f"{row['cpu_ratio']:.2f}",
                f"{row['floor_ms']:.4g}",
                f"{row['ours_over_floor']:.1f}",
                f"{row['twin_over_floor']:.1f}",
                row["twin"],
            ]
        )
    headers = ["network", "task", "ours, ms", "PyTorch, ms", "ratio (95 %)", "goal"]
    headers += ["ratio of processor time", "floor, ms", "ours / floor", "PyTorch / floor"]
    return tabulate(cells, [*headers, "PyTorch"], tablefmt="github", disable_numparse=True)


def profile(name: str) -> None:
    """Prints where a train step of ours spends its time, by class of operation and by operation."""
    pair = Pair(CASES[name])
    step = Step(pair.config, pair.data, pair.params)
    step(1)
    seconds = step(1)
    rows = op_times(step.program.run, lambda: step(1))
    print(f"{name}: a step takes {1e3 * seconds:.1f} ms")
    classes = [(kind, f"{1e3 * s:.1f}", f"{100 * share:.1f}") for kind, s, share in by_class(rows)]
    print(tabulate(classes, ["class", "ms", "%"], tablefmt="github", disable_numparse=True))
    slowest = [
        (
            row["operation"],
            row["class"],
            f"{1e3 * row['seconds']:.2f}",
            row["calls"],
            "/".join(row["source"].split("/")[-3:]),
        )
        for row in rows[:25]
    ]
    print(tabulate(slowest, ["operation", "class", "ms", "calls", "source"], tablefmt="github"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", action="append", choices=CASES, help="default: all of them")
    parser.add_argument("--task", action="append", choices=TASKS, help="default: all of them")
    parser.add_argument("--minutes", type=float, default=4, help="minutes of timing a row (4)")
    parser.add_argument("--eager", action="store_true", help="do not try torch.compile")
    parser.add_argument(
        "--profile", action="store_true", help="profile our train step, and measure nothing"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "peers.jsonl"
    )
    args = parser.parse_args()
    names = args.case or list(CASES)
    if args.profile:
        for name in names:
            profile(name)
        return
    known = {"torch": torch.__version__, "commit": commit(), **machine()}
    measured = lambda: [
        row
        for row in map(json.loads, args.out.read_text().splitlines() if args.out.exists() else ())
        if row["case"] in names and all(row.get(key) == value for key, value in known.items())
    ]
    for name in names:
        done = {row["task"] for row in measured() if row["case"] == name and not row["void"]}
        tasks = [
            task
            for task in args.task or TASKS
            if task not in done and (task != "probe" or CASES[name].probed)
        ]
        if tasks:
            measure_case(name, tasks, args, known)
    rows = measured()
    print(table(rows))
    sys.exit(any(row["void"] for row in rows))


if __name__ == "__main__":
    main()
