"""The train loop: it dispatches, reads metrics a dispatch late, evaluates, saves; it never waits
otherwise.
"""

import sys
from collections import deque
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image
from tqdm import tqdm

from ddaepp_jax.base import parallel
from ddaepp_jax.base.errors import NonFiniteError
from ddaepp_jax.training.checkpoint import Checkpoints
from ddaepp_jax.training.clock import Clock, peak_flops
from ddaepp_jax.training.program import Program
from ddaepp_jax.training.schedule import Due, Evaluation, Schedule
from ddaepp_jax.training.snapshots import Snapshots
from ddaepp_jax.training.source import Source
from ddaepp_jax.training.step import TrainState
from ddaepp_jax.training.writers import Writer

# dispatches that the host may be ahead: the device never idles, and batches don't pile up in its
# memory
IN_FLIGHT = 2


class _Report:
    """Turns totals into rows of metrics and the state of the progress bar, a dispatch after they
    were handed over.
    """

    def __init__(
        self,
        program: Program,
        schedule: Schedule,
        mesh: Mesh,
        writer: Writer,
        clock: Clock,
        start: int,
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
        self._pending: tuple[int, dict[str, Any]] | None = None
        clock.rate(start)

    def later(self, step: int, totals: dict[str, Any]) -> None:
        """Hand over the totals of the steps up to ``step``."""
        self._pending = step, totals

    def settle(self) -> None:
        """Read and write what was handed over.

        Raises:
          NonFiniteError: names the first step that was not finite, and its leaf.
        """
        if self._pending:
            self._write(*self._pending)
            self._pending = None

    def _write(self, step: int, totals: dict[str, Any]) -> None:
        totals = jax.device_get(totals)
        rate = self._clock.rate(step)
        if totals["bad_step"] >= 0:
            raise NonFiniteError(self._bad(totals))
        values = {
            name: float(np.float64(total) / totals["count"])
            for name, total in totals["sums"].items()
        }
        if rate:
            values["images_per_second_per_device"] = (
                rate * self._schedule.batch_size / self._devices
            )
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
        leaves = [
            n for n, bad in zip(self._program.leaf_names, totals["bad_leaves"], strict=True) if bad
        ]
        where = (
            f"the gradient of {leaves[0]} ({len(leaves)} leaves in all)" if leaves else "the loss"
        )
        return (
            f"step {int(totals['bad_step'])}: {where} is not finite; nothing was saved since. The same command resumes "
            "from the newest checkpoint; lower optimizer.learning_rate, or set optimizer.clip_norm, or use float32"
        )


class _InFlight:
    """The dispatches that the device has not done yet: at most IN_FLIGHT."""

    def __init__(self, bar: tqdm) -> None:
        self._bar = bar
        self._dispatches: deque[tuple[jax.Array, int]] = deque()

    def add(self, done: jax.Array, steps: int) -> None:
        self._dispatches.append((done, steps))
        self.land(IN_FLIGHT)

    def land(self, left: int = 0) -> None:
        """Wait until no more than ``left`` are under way."""
        while len(self._dispatches) > left:
            done, steps = self._dispatches.popleft()
            jax.block_until_ready(done)
            self._bar.update(steps)


class _Trace:
    """The profiler's window of the schedule, into a folder."""

    def __init__(self, schedule: Schedule, folder: str) -> None:
        self._start, self._folder, self._on = schedule.profile_start, folder, False
        self._stop = min(schedule.profile_start + schedule.profile_steps, schedule.total)

    def before(self, step: int) -> None:
        """Open it where it starts at ``step``."""
        if step == self._start < self._stop:
            jax.profiler.start_trace(self._folder)
            self._on = True

    def after(self, step: int, state: TrainState) -> None:
        """Close it where it ends at ``step``, whose state is waited for."""
        if self._on and step == self._stop:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._on = False


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
    everywhere = parallel.replicated(mesh)
    step = int(state.step)
    batches, clock, totals = source.open(step, schedule.total), Clock(), program.zeros()
    report = _Report(program, schedule, mesh, writer, clock, step)
    in_flight, trace = _InFlight(report.bar), _Trace(schedule, trace_dir)
    if step and schedule.due(step).snapshot:
        snapshots.save(
            step, state
        )  # the checkpoint's own, where the run was stopped between the two

    with report.bar:
        while step < schedule.total:
            trace.before(step)
            stop = schedule.stop(step) if source.looped else step + 1
            data = next(batches)
            limit = parallel.put(np.int32(stop), everywhere)
            with jax.transfer_guard("disallow"):
                state, totals, done = program.run(state, totals, data, limit)
            report.settle()  # of the dispatch before, while this one runs
            in_flight.add(done, stop - step)
            step = stop
            trace.after(step, state)
            due = schedule.due(step)
            if due.log or due.pauses:
                report.later(step, totals)
                totals = program.zeros()
            if due.pauses:
                report.settle()
                with clock.pause():
                    _evaluate_and_save(step, state, due, writer, checkpoints, snapshots, meta)
        report.settle()
        in_flight.land()
    return state


def _evaluate_and_save(
    step: int,
    state: TrainState,
    due: Due,
    writer: Writer,
    checkpoints: Checkpoints,
    snapshots: Snapshots | None,
    meta: dict[str, Any],
) -> None:
    values = {name: _evaluate(writer, step, name, e, state) for name, e in due.evaluations.items()}
    if due.checkpoint:
        measured = {name: values[name][e.best] for name, e in due.evaluations.items() if e.best}
        if snapshots:
            snapshots.wait()  # a run that resumes here makes those before it no more
        checkpoints.save(state, {**meta, "step": step, "measured": measured})
    if due.snapshot:
        snapshots.save(step, state)


def _evaluate(
    writer: Writer, step: int, name: str, evaluation: Evaluation, state: TrainState
) -> dict[str, float | Image.Image]:
    values = evaluation.measure(state)
    for key, value in values.items():
        if isinstance(value, Image.Image):
            writer.picture(step, key, value)
    numbers = {
        f"{name}/{key}": value
        for key, value in values.items()
        if not isinstance(value, Image.Image)
    }
    if numbers:
        writer.scalars(step, numbers)
    return values
