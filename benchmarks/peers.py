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
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# Idle threads of PyTorch's OpenMP sleep, so that they take nothing from JAX's; both libraries share
# a GPU's memory.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import numpy as np
import torch
from floor import bandwidth, peak, product_shapes, synchronised
from machine import machine
from op_times import by_class, op_times
from peer_tasks import CASES, CPU_CASES, GPU_CASES, ROOT, TASKS, Pair, Task
from tabulate import tabulate
from train_step import Step
from twins.work import Mode

from ddaepp_jax.training.clock import peak_flops

TOLERANCE = 1e-4  # largest relative difference of the losses
FEWEST = 6  # pairs of timings
MOST = 40
# Goals: our time over the twin's; the first four on two CPU cores.
GOALS = {
    ("uvit_s2", "train"): 0.70,
    ("uvit_small", "train"): 0.85,
    ("unet", "train"): 1.0,
    ("dit_b2", "train"): 0.80,
    **{(name, "train"): 0.83 for name in GPU_CASES},
}
TASK_GOALS = {"forward": 0.60, "ddim": 0.60, "features": 0.60}


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Returns the wall and the processor seconds of a call."""
    start, cpu = time.perf_counter(), time.process_time()
    synchronised(call())
    return time.perf_counter() - start, time.process_time() - cpu


def modes(task: Task, convolutional: bool, compile: bool) -> Iterator[dict[str, Any]]:
    """Yields the choices of the twin's mode: the optimizer, the layout, ``torch.compile``."""
    if task.trains and not torch.cuda.is_available():  # There, the fused optimizer is faster.
        yield {"fused": False}
    if convolutional:
        yield {"channels_last": True}
    if compile:
        yield {"compiled": True}


def fastest(task: Task, convolutional: bool, compile: bool) -> tuple[Mode, Any, dict[str, Any]]:
    """Returns the twin's fastest mode, its function, and the milliseconds of what was tried.

    One choice after another is made. Only one mode's twin is in memory at a time.
    """
    tried: dict[str, Any] = {}

    def measured(mode: Mode) -> tuple[float, Callable[[], Any]]:
        gc.collect()
        torch.cuda.empty_cache()
        call = task.twin(mode)
        timed(call)
        seconds = min(timed(call)[0] for _ in range(2))
        name = f"{mode}{'' if mode.fused or not task.trains else ', foreach'}"
        tried[name] = round(1e3 * seconds / task.per, 2)
        return seconds, call

    best = last = Mode()
    seconds, call = measured(best)
    for change in modes(task, convolutional, compile):
        mode = dataclasses.replace(best, **change)
        call = None
        try:
            other, call = measured(mode)
        except Exception as error:  # e.g. no C++ compiler
            tried[str(mode)] = f"failed: {type(error).__name__}"
            continue
        last = mode
        if other < seconds:
            best, seconds = mode, other
    if call is None or last != best:
        call = None
        _, call = measured(best)
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
    floor = 1e3 * max(task.products / flops, task.weight_bytes / triad)
    sheet = peak_flops(jax.devices()[0].device_kind)
    mfu = lambda milliseconds: sheet and task.products / (milliseconds / 1e3) / sheet
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
        "gflop_by_our_count": task.counted and task.counted / 1e9,
        "gbyte_of_weights": task.weight_bytes / 1e9,
        "peak_gflops": flops / 1e9,
        "triad_gbytes": triad / 1e9,
        "floor_ms": floor,
        "ours_over_floor": wall[0] / floor,
        "twin_over_floor": wall[1] / floor,
        "mfu": mfu(wall[0]),
        "twin_mfu": mfu(wall[1]),
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
    differences = pair.differences()
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
    parser.add_argument(
        "--case", action="append", choices=CASES, help="default: all that this backend has"
    )
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
    names = args.case or list(CPU_CASES if jax.default_backend() == "cpu" else GPU_CASES)
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
