"""The train loop: it dispatches steps, reads metrics one dispatch late, evaluates and saves."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image
from tqdm import tqdm

from ddaepp_jax.base import parallel
from ddaepp_jax.base.dispatch import InFlight, progress_bar
from ddaepp_jax.base.errors import NonFiniteError, Stopped
from ddaepp_jax.base.stop import Stop
from ddaepp_jax.training.checkpoint import Checkpoints
from ddaepp_jax.training.clock import Clock, peak_flops
from ddaepp_jax.training.pace import Pace
from ddaepp_jax.training.program import Program
from ddaepp_jax.training.schedule import Due, Evaluation, Schedule
from ddaepp_jax.training.snapshots import Snapshots
from ddaepp_jax.training.source import Source
from ddaepp_jax.training.step import TrainState
from ddaepp_jax.training.watchdog import Watchdog
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

    def save(
        self,
        step: int,
        state: TrainState,
        measured: Mapping[str, float],
        unlogged: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts saving a checkpoint.

        Args:
          measured: values of the ranked evaluations at this step.
          unlogged: totals of steps that are not in the metrics yet, see ``train``.
        """
        if self.snapshots:
            # A run resumed from this checkpoint does not recreate earlier snapshots, so wait until
            # they are on disk.
            self.snapshots.wait()
        facts = {"step": step, "measured": dict(measured), "unlogged": unlogged}
        self.checkpoints.save(state, {**self.meta, **facts})

    def wait(self) -> None:
        """Waits until everything is saved."""
        if self.snapshots:
            self.snapshots.wait()
        self.checkpoints.wait()

    def poll(self) -> None:
        """Raises the error of a save that has failed meanwhile."""
        self.checkpoints.poll()
        if self.snapshots:
            self.snapshots.poll()


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
        totals = self.read(totals)
        rate = self.clock.rate(step)
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

    def read(self, totals: dict[str, Any]) -> dict[str, Any]:
        """Returns totals on the host.

        Raises:
          NonFiniteError: as ``write``.
        """
        totals = jax.device_get(totals)
        if totals["bad_step"] >= 0:
            raise NonFiniteError(self._describe_bad(totals), int(totals["bad_step"]))
        return totals

    def _describe_bad(self, totals: dict[str, Any]) -> str:
        flags = zip(self._program.leaf_names, totals["bad_leaves"], strict=True)
        leaves = [name for name, bad in flags if bad]
        part = (
            f"the gradient of {leaves[0]} ({len(leaves)} leaves in all)" if leaves else "the loss"
        )
        return (
            f"step {int(totals['bad_step'])}: {part} is not finite; nothing was "
            "saved since. The same command resumes from the newest checkpoint, and --rollback "
            "skips the data since then; or lower optimizer.learning_rate, set "
            "optimizer.clip_norm, or use float32"
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
    unlogged: Mapping[str, Any] | None = None,
    stuck_timeout: float = 0,
) -> TrainState:
    """Trains from ``state`` up to step ``schedule.total``.

    Ctrl-C, SIGTERM or SIGHUP to any process ends the training early in all of them, after the state
    of one step is saved.

    Args:
      unlogged: totals of steps before ``state`` that are not in the metrics yet, as a stopped
        training saved them: "count", and "sums" by metric.
      stuck_timeout: seconds without a finished step after which the process ends; 0: never.

    Raises:
      NonFiniteError: a loss or gradient is not finite; the message names the step and the leaf.
        What was saved before is good.
      SaveError: a checkpoint or snapshot cannot be saved.
      Stopped: a signal ended the training; the state is saved.
    """
    everywhere = parallel.replicated(mesh)
    step = saved = int(state.step)
    skipped = int(state.skipped)
    snapshots = outputs.snapshots
    if step and schedule.due(step).snapshot:
        # The run may have stopped between the checkpoint of this step and its snapshot.
        snapshots.save(step, state)
    batches = source.open(step + skipped, schedule.total + skipped)
    totals = program.zeros()
    if unlogged:
        totals |= jax.tree.map(
            lambda zero, value: parallel.put(np.asarray(value, zero.dtype), everywhere),
            {name: totals[name] for name in unlogged},
            dict(unlogged),
        )
    report = _Report(program, schedule, mesh, outputs.writer, step)
    in_flight = InFlight(report.bar)
    trace = _Trace(schedule, outputs.trace_dir)
    pace, look = Pace(step), step
    stop_signal = Stop("the current steps are finished and saved")
    watchdog = Watchdog(stuck_timeout)

    with report.bar, watchdog, stop_signal as signals:
        while step < schedule.total:
            if step == look:
                look, signal = pace.look(step, signals)
                if signal:
                    report.write()
                    with watchdog.pause():
                        if step > saved:
                            _save_unlogged(step, state, report.read(totals), outputs)
                        outputs.wait()
                    raise Stopped(
                        f"stopped at step {step}, which is saved; the same command resumes",
                        128 + signal,
                    )
            trace.before(step)
            stop = min(look, schedule.stop(step)) if source.looped else step + 1
            data = next(batches)
            limit = parallel.put(np.int32(stop), everywhere)
            with jax.transfer_guard("disallow"):
                state, totals, done = program.run(state, totals, data, limit)
            report.write()  # Writes the metrics of the dispatch before, while this one runs.
            finished = in_flight.add((done, stop), stop - step)
            if finished:
                watchdog.finished()
                pace.finished(finished[-1][1])
            step = stop
            trace.after(step, state)
            outputs.poll()
            due = schedule.due(step)
            if due.log or due.pauses:
                report.hold(step, totals)
                totals = program.zeros()
            if due.pauses:
                report.write()
                in_flight.finish()
                with report.clock.pause(), watchdog.pause():
                    _evaluate_and_save(step, state, due, outputs, report.bar)
                if due.checkpoint:
                    saved = step
                pace.restart(step)
                look = step  # A signal may have come meanwhile.
        report.write()
        in_flight.finish()
        with watchdog.pause():
            outputs.wait()
    return state


def _save_unlogged(
    step: int, state: TrainState, totals: Mapping[str, Any], outputs: Outputs
) -> None:
    """Saves a checkpoint with the totals that the metrics lack."""
    sums = {name: float(total) for name, total in totals["sums"].items()}
    outputs.save(step, state, {}, {"count": int(totals["count"]), "sums": sums})


def _evaluate_and_save(step: int, state: TrainState, due: Due, outputs: Outputs, bar: tqdm) -> None:
    values = {}
    for name, evaluation in due.evaluations.items():
        bar.set_description(f"evaluating {name}")
        values[name] = _evaluate(name, evaluation, step, state, outputs.writer)
    bar.set_description(refresh=False)
    if due.checkpoint:
        measured = {
            name: values[name][evaluation.best]
            for name, evaluation in due.evaluations.items()
            if evaluation.best
        }
        outputs.save(step, state, measured)
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
