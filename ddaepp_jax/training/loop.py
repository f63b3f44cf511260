"""The train loop: it dispatches, reads metrics a dispatch late, evaluates, saves; it never waits otherwise."""

import dataclasses
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image
from tqdm import tqdm

from ddaepp_jax.errors import NonFiniteError
from ddaepp_jax.training import sharding
from ddaepp_jax.training.checkpoint import Checkpoints
from ddaepp_jax.training.clock import Clock, next_stop, peak_flops
from ddaepp_jax.training.program import Program
from ddaepp_jax.training.snapshots import Snapshots
from ddaepp_jax.training.source import Source
from ddaepp_jax.training.step import TrainState
from ddaepp_jax.training.writers import Writer

# step's state -> values by name: numbers go to the metrics, pictures to files.
Evaluator = Callable[[TrainState], dict[str, float | Image.Image]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Something measured every ``every`` steps.

    Attributes:
      rank: the value that ranks checkpoints; "": none does.
    """

    every: int
    measure: Evaluator
    rank: str = ""


IN_FLIGHT = 2  # dispatches that the host may be ahead: the device never idles, and batches don't pile up in its memory


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When things happen, in steps."""

    total: int
    dispatch: int
    log_every: int
    checkpoint_every: int
    batch_size: int
    evaluations: Mapping[str, Evaluation]
    snapshot_every: int = 0
    profile_start: int = 0
    profile_steps: int = 0

    def due(self, step: int, period: int) -> bool:
        """Whether something of this period happens after ``step`` steps; everything happens at the end."""
        return period > 0 and (step % period == 0 or step == self.total)

    def stop(self, step: int) -> int:
        every = (self.log_every, self.checkpoint_every, self.snapshot_every)
        periods = (*every, *(e.every for e in self.evaluations.values()))
        stop = next_stop(step, self.total, self.dispatch, periods)
        if self.profile_steps:
            edges = (self.profile_start, self.profile_start + self.profile_steps)
            stop = min([stop, *(edge for edge in edges if edge > step)])
        return stop


class _Report:
    """Turns a chunk's totals into a row of metrics and a state of the progress bar."""

    def __init__(
        self, program: Program, schedule: Schedule, mesh: Mesh, writer: Writer, clock: Clock, start: int
    ) -> None:
        self._program, self._schedule, self._writer, self._clock = program, schedule, writer, clock
        self._devices, self._peak = mesh.size, peak_flops(mesh.devices.flat[0].device_kind)
        # A log file gets a line now and then, a terminal a bar.
        interval = 0.5 if sys.stderr.isatty() else 30
        self.bar = tqdm(
            total=schedule.total,
            initial=start,
            unit="step",
            mininterval=interval,
            dynamic_ncols=True,
            disable=jax.process_index() != 0,
        )

    def __call__(self, step: int, totals: dict[str, Any]) -> None:
        totals = jax.device_get(totals)
        rate = self._clock.rate(step)
        if totals["bad_step"] >= 0:
            raise NonFiniteError(self._bad(totals))
        values = {name: float(np.float64(total) / totals["count"]) for name, total in totals["sums"].items()}
        if rate:
            values["images_per_second_per_device"] = rate * self._schedule.batch_size / self._devices
            if self._peak:
                values["mfu"] = rate * self._program.flops / self._peak
        self._writer.scalars(step, values)
        shown = {"loss": f"{values['loss']:.4f}"}
        if rate:
            shown["img/s/dev"] = f"{values['images_per_second_per_device']:.0f}"
        if "mfu" in values:
            shown["MFU"] = f"{values['mfu']:.1%}"
        self.bar.set_postfix(shown, refresh=False)

    def _bad(self, totals: dict[str, Any]) -> str:
        leaves = [n for n, bad in zip(self._program.leaf_names, totals["bad_leaves"], strict=True) if bad]
        where = f"the gradient of {leaves[0]} ({len(leaves)} leaves in all)" if leaves else "the loss"
        return (
            f"step {int(totals['bad_step'])}: {where} is not finite; nothing was saved since. The same command resumes "
            "from the newest checkpoint; lower optimizer.learning_rate, or set optimizer.clip_norm, or use float32"
        )


def train(
    program: Program,
    state: TrainState,
    source: Source,
    schedule: Schedule,
    *,
    mesh: Mesh,
    writer: Writer,
    checkpoints: Checkpoints,
    snapshots: Snapshots | None,
    meta: dict[str, Any],
    trace_dir: str,
) -> TrainState:
    """Train from ``state`` to ``schedule.total`` steps.

    Args:
      snapshots: where ``schedule.snapshot_every`` asks for some.
      meta: saved with every checkpoint, beside its step.
      trace_dir: where the profiler's window goes.

    Raises:
      NonFiniteError: names the step and the leaf. What was saved before is good.
    """
    everywhere = sharding.replicated(mesh)
    step = int(state.step)
    batches, clock = source.open(step, schedule.total), Clock()
    report = _Report(program, schedule, mesh, writer, clock, step)
    totals, pending, tracing = program.zeros(), None, False
    in_flight: deque[tuple[jax.Array, int]] = deque()
    clock.rate(step)

    def settle() -> None:
        nonlocal pending
        if pending:
            report(*pending)
            pending = None

    def land() -> None:
        done, steps = in_flight.popleft()
        jax.block_until_ready(done)
        report.bar.update(steps)

    if snapshots and step and schedule.due(step, schedule.snapshot_every):
        snapshots.save(step, state)  # the checkpoint's own, where the run was stopped between the two

    with report.bar:
        while step < schedule.total:
            if schedule.profile_steps and step == schedule.profile_start:
                jax.profiler.start_trace(trace_dir)
                tracing = True
            stop = schedule.stop(step) if source.looped else step + 1
            data = next(batches)
            limit = sharding.put(np.int32(stop), everywhere)
            with jax.transfer_guard("disallow"):
                state, totals, done = program.run(state, totals, data, limit)
            settle()  # of the dispatch before, while this one runs
            in_flight.append((done, stop - step))
            if len(in_flight) > IN_FLIGHT:
                land()
            step = stop
            if tracing and step == min(schedule.profile_start + schedule.profile_steps, schedule.total):
                jax.block_until_ready(state)
                jax.profiler.stop_trace()
                tracing = False
            saves = schedule.due(step, schedule.checkpoint_every)
            keeps = snapshots and schedule.due(step, schedule.snapshot_every)
            evaluations = {n: e for n, e in schedule.evaluations.items() if schedule.due(step, e.every)}
            if schedule.due(step, schedule.log_every) or saves or keeps or evaluations:
                pending = (step, totals)
                totals = program.zeros()
            if saves or keeps or evaluations:
                settle()
                with clock.pause():
                    values = {name: _evaluate(writer, step, name, e, state) for name, e in evaluations.items()}
                    if saves:
                        measured = {name: values[name][e.rank] for name, e in evaluations.items() if e.rank}
                        if snapshots:
                            snapshots.wait()  # a run that resumes here makes those before it no more
                        checkpoints.save(state, {**meta, "step": step, "measured": measured})
                    if keeps:
                        snapshots.save(step, state)
        settle()
        while in_flight:
            land()
    return state


def _evaluate(
    writer: Writer, step: int, name: str, evaluation: Evaluation, state: TrainState
) -> dict[str, float | Image.Image]:
    values = evaluation.measure(state)
    for key, value in values.items():
        if isinstance(value, Image.Image):
            writer.picture(step, key, value)
    numbers = {f"{name}/{key}": value for key, value in values.items() if not isinstance(value, Image.Image)}
    if numbers:
        writer.scalars(step, numbers)
    return values
