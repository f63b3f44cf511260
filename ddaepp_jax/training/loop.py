"""The train loop: it dispatches steps, reads metrics one dispatch late, evaluates and saves."""

import dataclasses
import time
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
        """Raises the error of a save that has failed meanwhile.

        It does nothing where there are several processes: they must all end at the same step.
        """
        if jax.process_count() == 1:
            self.checkpoints.poll()
            if self.snapshots:
                self.snapshots.poll()


# Most seconds of one dispatch, after which the loop can notice a signal, unless the config's
# ``train.steps_per_dispatch`` ends it earlier.
DISPATCH_SECONDS = 5.0


class _Pace:
    """The number of steps of a dispatch that takes about ``DISPATCH_SECONDS``.

    It starts with one step. The number of steps in a dispatch changes no number of the run. Several
    processes have to dispatch the same steps, so there it sets no limit.
    """

    def __init__(self, step: int) -> None:
        self._limited = jax.process_count() == 1
        self._steps = 1
        self.restart(step)

    def restart(self, step: int) -> None:
        """Begins to measure at ``step``."""
        self._last = time.perf_counter(), step

    def finished(self, step: int) -> None:
        """Measures the steps up to ``step``, which have just finished."""
        now = time.perf_counter()
        last_time, last_step = self._last
        rate = (step - last_step) / max(now - last_time, 1e-9)
        self._steps = max(1, int(rate * DISPATCH_SECONDS))
        self._last = now, step

    def stop(self, step: int, stop: int) -> int:
        """Returns the end of a dispatch that starts at ``step`` and would end at ``stop``."""
        return min(stop, step + self._steps) if self._limited else stop


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
            raise NonFiniteError(self._describe_bad(totals))
        return totals

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
    unlogged: Mapping[str, Any] | None = None,
) -> TrainState:
    """Trains from ``state`` up to step ``schedule.total``.

    Ctrl-C, SIGTERM or SIGHUP ends the training early, after its state is saved.

    Args:
      unlogged: totals of steps before ``state`` that are not in the metrics yet, as a stopped
        training saved them: "count", and "sums" by metric.

    Raises:
      NonFiniteError: a loss or gradient is not finite; the message names the step and the leaf.
        What was saved before is good.
      SaveError: a checkpoint or snapshot cannot be saved.
      Stopped: a signal ended the training; the state is saved.
    """
    everywhere = parallel.replicated(mesh)
    step = int(state.step)
    snapshots = outputs.snapshots
    if step and schedule.due(step).snapshot:
        # The run may have stopped between the checkpoint of this step and its snapshot.
        snapshots.save(step, state)
    batches = source.open(step, schedule.total)
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
    pace = _Pace(step)

    # A signal reaches one of several processes, and all would have to save at the same step.
    stop_signal = Stop("the current steps are finished and saved", jax.process_count() == 1)

    with report.bar, stop_signal as signal:
        while step < schedule.total:
            trace.before(step)
            stop = pace.stop(step, schedule.stop(step)) if source.looped else step + 1
            data = next(batches)
            limit = parallel.put(np.int32(stop), everywhere)
            with jax.transfer_guard("disallow"):
                state, totals, done = program.run(state, totals, data, limit)
            report.write()  # Writes the metrics of the dispatch before, while this one runs.
            finished = in_flight.add((done, stop), stop - step)
            if finished:
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
                with report.clock.pause():
                    _evaluate_and_save(step, state, due, outputs, report.bar)
                pace.restart(step)
            if signal.requested and step < schedule.total:
                report.write()
                _save_unlogged(step, state, report.read(totals), due, outputs)
                raise Stopped(
                    f"stopped at step {step}, which is saved; the same command resumes",
                    128 + signal.requested,
                )
        report.write()
        in_flight.finish()
        outputs.wait()
    return state


def _save_unlogged(
    step: int, state: TrainState, totals: Mapping[str, Any], due: Due, outputs: Outputs
) -> None:
    """Saves a checkpoint, unless there is one, with the totals that the metrics lack."""
    if not due.checkpoint:
        sums = {name: float(total) for name, total in totals["sums"].items()}
        outputs.save(step, state, {}, {"count": int(totals["count"]), "sums": sums})
    outputs.wait()


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
