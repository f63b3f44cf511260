"""The train loop: it dispatches steps, reads metrics one dispatch late, evaluates and saves."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from ddaepp_jax.base import parallel
from ddaepp_jax.base.dispatch import InFlight, progress_bar
from ddaepp_jax.base.errors import NonFiniteError
from ddaepp_jax.training.checkpoint import Checkpoints
from ddaepp_jax.training.clock import Clock, peak_flops
from ddaepp_jax.training.program import Program
from ddaepp_jax.training.schedule import Due, Evaluation, Schedule
from ddaepp_jax.training.snapshots import Snapshots
from ddaepp_jax.training.source import Source
from ddaepp_jax.training.step import TrainState
from ddaepp_jax.training.writers import Writer


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Where training puts its results.

    Attributes:
      writer: writes metrics and pictures.
      checkpoints: saves the whole state.
      snapshots: saves the power-function averages; None if ``Schedule.snapshot_every`` is 0.
      meta: JSON values saved with each checkpoint, beside its step.
      trace_dir: directory of the profiler's trace.
    """

    writer: Writer
    checkpoints: Checkpoints
    snapshots: Snapshots | None
    meta: dict[str, Any]
    trace_dir: str


class _Report:
    """Writes metrics and shows them beside the progress bar.

    Totals are held for one dispatch before they are read, so that reading them never leaves the
    device idle.
    """

    def __init__(
        self, program: Program, schedule: Schedule, mesh: Mesh, writer: Writer, start: int
    ) -> None:
        self._program = program
        self._batch_size = schedule.batch_size
        self._devices = mesh.size
        self._peak = peak_flops(mesh.devices.flat[0].device_kind)
        self._writer = writer
        self._held: tuple[int, dict[str, Any]] | None = None
        self.bar = progress_bar(schedule.total, "step", initial=start)
        self.clock = Clock()
        self.clock.rate(start)

    def hold(self, step: int, totals: dict[str, Any]) -> None:
        """Takes the totals of the steps up to ``step``; ``write`` reads them."""
        self._held = step, totals

    def write(self) -> None:
        """Reads and writes the totals held, if any.

        Raises:
          NonFiniteError: a loss or gradient was not finite; the message names the first such step,
            and the leaf.
        """
        if self._held is None:
            return
        step, totals = self._held
        self._held = None
        totals = jax.device_get(totals)
        rate = self.clock.rate(step)
        if totals["bad_step"] >= 0:
            raise NonFiniteError(self._describe_bad(totals))
        values = {
            name: float(np.float64(total) / totals["count"])
            for name, total in totals["sums"].items()
        }
        shown = {"loss": f"{values['loss']:.4f}"}
        if rate:
            images = rate * self._batch_size / self._devices
            values["images_per_second_per_device"] = images
            shown["img/s/dev"] = f"{images:.0f}"
        if rate and self._peak:
            values["mfu"] = rate * self._program.flops / self._peak
            shown["MFU"] = f"{values['mfu']:.1%}"
        self._writer.scalars(step, values)
        self.bar.set_postfix(shown, refresh=False)

    def _describe_bad(self, totals: dict[str, Any]) -> str:
        flags = zip(self._program.leaf_names, totals["bad_leaves"], strict=True)
        leaves = [name for name, bad in flags if bad]
        part = (
            f"the gradient of {leaves[0]} ({len(leaves)} leaves in all)" if leaves else "the loss"
        )
        return (
            f"step {int(totals['bad_step'])}: {part} is not finite; nothing was "
            "saved since. The same command resumes from the newest checkpoint; lower "
            "optimizer.learning_rate, or set optimizer.clip_norm, or use float32"
        )


class _Trace:
    """The profiler's trace of the steps that the schedule names."""

    def __init__(self, schedule: Schedule, directory: str) -> None:
        self._start = schedule.profile_start
        self._stop = min(schedule.profile_start + schedule.profile_steps, schedule.total)
        self._directory = directory
        self._on = False

    def before(self, step: int) -> None:
        """Starts the trace if it starts at ``step``."""
        if step == self._start < self._stop:
            jax.profiler.start_trace(self._directory)
            self._on = True

    def after(self, step: int, state: TrainState) -> None:
        """Stops the trace if it stops at ``step``, once the device has computed ``state``."""
        if self._on and step == self._stop:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._on = False


def train(
    program: Program,
    state: TrainState,
    source: Source,
    schedule: Schedule,
    mesh: Mesh,
    outputs: Outputs,
) -> TrainState:
    """Trains from ``state`` up to step ``schedule.total``.

    Raises:
      NonFiniteError: a loss or gradient is not finite; the message names the step and the leaf.
        What was saved before is good.
    """
    everywhere = parallel.replicated(mesh)
    step = int(state.step)
    snapshots = outputs.snapshots
    if step and schedule.due(step).snapshot:
        # The run may have stopped between the checkpoint of this step and its snapshot.
        snapshots.save(step, state)
    batches = source.open(step, schedule.total)
    totals = program.zeros()
    report = _Report(program, schedule, mesh, outputs.writer, step)
    in_flight = InFlight(report.bar)
    trace = _Trace(schedule, outputs.trace_dir)

    with report.bar:
        while step < schedule.total:
            trace.before(step)
            stop = schedule.stop(step) if source.looped else step + 1
            data = next(batches)
            limit = parallel.put(np.int32(stop), everywhere)
            with jax.transfer_guard("disallow"):
                state, totals, done = program.run(state, totals, data, limit)
            report.write()  # Writes the metrics of the dispatch before, while this one runs.
            in_flight.add(done, stop - step)
            step = stop
            trace.after(step, state)
            due = schedule.due(step)
            if due.log or due.pauses:
                report.hold(step, totals)
                totals = program.zeros()
            if due.pauses:
                report.write()
                with report.clock.pause():
                    _evaluate_and_save(step, state, due, outputs)
        report.write()
        in_flight.finish()
    return state


def _evaluate_and_save(step: int, state: TrainState, due: Due, outputs: Outputs) -> None:
    values = {
        name: _evaluate(name, evaluation, step, state, outputs.writer)
        for name, evaluation in due.evaluations.items()
    }
    if due.checkpoint:
        measured = {
            name: values[name][evaluation.best]
            for name, evaluation in due.evaluations.items()
            if evaluation.best
        }
        if outputs.snapshots:
            # A run resumed from this checkpoint does not recreate earlier snapshots, so wait until
            # they are on disk.
            outputs.snapshots.wait()
        outputs.checkpoints.save(state, {**outputs.meta, "step": step, "measured": measured})
    if due.snapshot:
        outputs.snapshots.save(step, state)


def _evaluate(
    name: str, evaluation: Evaluation, step: int, state: TrainState, writer: Writer
) -> dict[str, float | Image.Image]:
    """Measures the state, and writes pictures and numbers."""
    values = evaluation.measure(state)
    numbers = {}
    for key, value in values.items():
        if isinstance(value, Image.Image):
            writer.picture(step, key, value)
        else:
            numbers[f"{name}/{key}"] = value
    if numbers:
        writer.scalars(step, numbers)
    return values
