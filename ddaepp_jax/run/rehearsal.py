"""What a run's compiled program needs and does: memory, disk, an all-reduce, one step."""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddaepp_jax.base import parallel
from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.run.checks import Check
from ddaepp_jax.run.describe import gigabytes
from ddaepp_jax.run.fitting import compile_fitting
from ddaepp_jax.run.train import Plan
from ddaepp_jax.training.checkpoint import nbytes
from ddaepp_jax.training.memory import capacity
from ddaepp_jax.training.program import Program
from ddaepp_jax.training.snapshots import snapshot_content
from ddaepp_jax.training.source import Source

REDUCED = 2**26  # bytes that each device gives to the timed all-reduce


def needed_bytes(plan: Plan, workdir: Path) -> int:
    """Returns the bytes that a run will add to its directory, at least those of a checkpoint."""
    config = plan.config
    kept = config.train.keep_checkpoints + len(plan.evaluations) + 1  # one more in saving
    total = kept * nbytes(plan.shapes)
    if every := config.ema.snapshot_every:
        total += -(-plan.total // every) * nbytes(snapshot_content(plan.shapes.ema))
    there = sum(
        file.stat().st_size
        for name in ("checkpoints", "snapshots")
        for file in (workdir / name).rglob("*")
        if file.is_file()
    )
    return max(nbytes(plan.shapes), total - there)


def all_reduce(mesh: Mesh) -> Check:
    """Times the sum of an array over all devices, the best of three."""
    size = REDUCED // 4
    ones = jax.jit(
        lambda: jnp.ones((mesh.size, size), jnp.float32), out_shardings=parallel.split(mesh)
    )()
    add = jax.jit(lambda array: array.sum(0), out_shardings=parallel.replicated(mesh))
    seconds = []
    for _ in range(4):  # The first one compiles.
        start = time.perf_counter()
        total = jax.block_until_ready(add(ones))
        seconds.append(time.perf_counter() - start)
    best = min(seconds[1:])
    speed = f"{REDUCED / best / 1e9:.2f} GB/s"
    line = f"{gigabytes(REDUCED)} a device over {mesh.size} in {best * 1e3:.1f} ms, {speed}"
    least, most = (float(reduce(total)) for reduce in (jnp.min, jnp.max))
    if (least, most) != (mesh.size, mesh.size):
        seen = f"ones of {mesh.size} devices add up to {least:g}..{most:g}"
        return Check("all-reduce", False, f"{seen}; replace the host or device that is broken")
    return Check("all-reduce", True, line)


def compiled(plan: Plan) -> tuple[Program | None, dict[str, Any]]:
    """Compiles the train program, as the run does.

    Returns:
      The program, None if it does not fit; and the facts for ``checks.check_memory``: the bytes
      that it needs on a device, the bytes of the smallest device, 0 where that is not known, and
      the error.
    """
    limit = capacity(plan.mesh) or 0
    try:
        program, _ = compile_fitting(plan.config, plan.learner, plan.data, plan.mesh)
    except InputError as error:
        return None, {"error": str(error), "memory": 0, "limit": limit}
    return program, {"error": "", "memory": program.memory, "limit": limit}


def train_step(program: Program, source: Source, plan: Plan) -> Check:
    """Takes two train steps on the run's data, and times the second; nothing is saved."""
    try:
        state, batches = program.init(), source.open(0, 2)
        for stop in (1, 2):
            data = next(batches)
            limit = parallel.put(np.int32(stop), parallel.replicated(plan.mesh))
            totals = program.zeros()
            start = time.perf_counter()
            state, totals, done = program.run(state, totals, data, limit)
            jax.block_until_ready(done)
            seconds = time.perf_counter() - start
        loss = float(totals["sums"]["loss"])
    except RuntimeError as error:
        mend = "lower train.batch_size, set model.remat, or shard by mesh.fsdp"
        return Check("train step", False, f"{first_line(error)}; {mend}")
    images = plan.config.train.batch_size / seconds
    line = f"{seconds:.3f} s, {images:.0f} images/s, loss {loss:.3f}"
    if not np.isfinite(loss):
        return Check("train step", False, f"{line}; lower optimizer.learning_rate, or use float32")
    return Check("train step", True, line)
