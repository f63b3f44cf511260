"""Checkpoints: ``checkpoints/<step>/`` with the items params, ema, optimizer and meta, by Orbax.

The meta data hold the format of the parameters. Format 1, that of version 0.1, stored the
time-adaptive scale of self-conditioning, s(t), with a bias that starts at 1, and did not write its
number. Format 2 stores s(t) - 1. Parameters of format 1 are converted when they are read.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Sharding

from ddaepp_jax.base import board, parallel
from ddaepp_jax.base.ending import lost_peer
from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.base.processes import in_first
from ddaepp_jax.training.saving import Saver, check_path, verify
from ddaepp_jax.training.step import TrainState

FORMAT = 2  # written today
SCALE_BIAS = ("self_conditioning", "scale", "bias")

_STEP = re.compile("0|[1-9][0-9]*")

# ``min`` or ``max``: picks the best of measured values.
Better = Callable[[Iterable[float]], float]


class _Keep(ocp.checkpoint_managers.PreservationPolicy):
    """Keeps the newest checkpoints and the best one by each ranked value.

    Of equal values, it keeps the older checkpoint.
    """

    def __init__(self, newest: int, ranks: Mapping[str, Better], directory: Path) -> None:
        self._newest = newest
        self._ranks = ranks
        self.measured = {step: _measured(directory, step) for step in steps_of(directory)}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        measured = {step: self.measured.get(step, {}) for step in steps}
        best = {_best(measured, name, better) for name, better in self._ranks.items()}
        return [step in best or step in steps[-self._newest :] for step in steps]


def _best(measured: Mapping[int, Mapping[str, float]], name: str, better: Better) -> int | None:
    """Returns the first step with the best value of ``name``; None if it was measured nowhere."""
    values = {step: at_step[name] for step, at_step in measured.items() if name in at_step}
    return next((step for step in sorted(values) if values[step] == better(values.values())), None)


class Checkpoints:
    """The checkpoints of a run in training.

    Saves are asynchronous, old checkpoints are removed, and restoring falls back to the newest
    checkpoint that can be read.
    """

    def __init__(
        self, directory: Path, keep: int, ranks: Mapping[str, Better], checksums: bool = True
    ) -> None:
        """Opens the directory, which need not exist.

        Args:
          directory: the directory of the checkpoints.
          keep: number of newest checkpoints that stay.
          ranks: ``min`` or ``max`` by the evaluation's name; the best checkpoint of each stays too.
          checksums: whether to write checksums of the files.

        Raises:
          SaveError: the directory cannot be written.
        """
        self._keep = _Keep(keep, ranks, directory)
        self._directory = directory
        self._saver = Saver(directory, checksums=checksums, preservation_policy=self._keep)

    def save(self, state: TrainState, meta: dict[str, Any]) -> None:
        """Starts saving.

        Args:
          state: the state to save.
          meta: JSON values to save beside it, among them its "step" and "skipped", and "measured",
            the values of the ranked evaluations at this step.

        Raises:
          SaveError: the save cannot start, or the one before failed.
        """
        self._keep.measured[meta["step"]] = meta["measured"]
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            ema=ocp.args.StandardSave(state.ema),
            optimizer=ocp.args.StandardSave(state.opt_state),
            meta=ocp.args.JsonSave({**meta, "format": FORMAT}),
        )
        self._saver.save(meta["step"], items, nbytes(state))

    def poll(self) -> None:
        """Raises the error of a save that has failed meanwhile (SaveError); it does not wait."""
        self._saver.poll()

    def wait(self) -> None:
        """Waits until the last save is on disk, and raises its error (SaveError)."""
        self._saver.wait()

    def restore(self, target: TrainState) -> tuple[TrainState, dict[str, Any], list[str]] | None:
        """Restores the newest checkpoint that can be read, onto the target's shardings.

        Returns:
          The state, the JSON values beside it, and a line for each newer checkpoint that could not
          be read and was moved to ``damaged-<step>``; None if there is no checkpoint at all.

        Raises:
          InputError: there are checkpoints, but none can be read.
        """
        steps = steps_of(self._directory)[::-1]
        damage: list[str] = []
        for step in steps:
            try:
                state = restore_state(self._directory, step, target)
                meta = read_meta(self._directory, step)
            except Exception as error:  # A damaged file may raise anything.
                if board.joined() and lost_peer(error):
                    raise
                reason = first_line(error).partition("; ")[0]  # without the mend
                damage.append(f"{self._directory / str(step)}: cannot be read ({reason})")
                continue
            self._set_aside(steps[: len(damage)])
            return state, meta, damage
        if damage:
            raise InputError(
                f"{damage[0]}, and neither can any older checkpoint; train into another --workdir"
            )
        return None

    def _set_aside(self, steps: list[int]) -> None:
        if not steps:
            return

        def move() -> None:
            for step in steps:
                aside = self._directory.parent / f"damaged-{step}"
                shutil.rmtree(aside, ignore_errors=True)  # The same step may be there already.
                os.rename(self._directory / str(step), aside)

        in_first(move)
        self._saver.reload()

    def close(self) -> None:
        """Waits for the last save, and raises its error (SaveError)."""
        self._saver.close()


def restore_state(directory: Path, step: int, target: TrainState) -> TrainState:
    """Restores a checkpoint's whole state onto the target's shardings, whatever devices saved it.

    Args:
      directory: the directory of the checkpoints.
      step: step of the checkpoint.
      target: shapes, dtypes and shardings of the state.

    Raises:
      InputError: a file differs from its checksum. A damaged checkpoint without checksums may raise
        anything.
    """
    checkpointer = ocp.StandardCheckpointer()
    path = (directory / str(step)).absolute()
    verify(path, "params", "ema", "optimizer", "meta")
    params = checkpointer.restore(path / "params", target.params)
    ema = checkpointer.restore(path / "ema", target.ema)
    opt_state = checkpointer.restore(path / "optimizer", target.opt_state)
    meta = read_meta(directory, step)
    params, ema = _converted((params, ema), meta)
    # Checkpoints of an older version do not count skipped batches; there were none.
    numbers = np.int32(meta["step"]), np.int32(meta.get("skipped", 0))
    step_array, skipped = parallel.put(numbers, target.step.sharding)
    return TrainState(step_array, params, ema, opt_state, skipped)


def read_meta(directory: Path, step: int) -> dict[str, Any]:
    """Reads the meta data of a checkpoint.

    Raises:
      InputError: there is no such checkpoint, or it is damaged.
    """
    path = (directory / str(step) / "meta").absolute()
    try:
        # Unlike a Checkpointer, its handler waits for no other process.
        meta = ocp.JsonCheckpointHandler().restore(path)
        # A snapshot's step is that of its directory alone.
        of_step = int(meta.get("step", step))
    except Exception as error:
        raise InputError(
            f"{path}: is not a readable checkpoint of this program ({first_line(error)}); "
            "choose another --step"
        ) from error
    if of_step != step:
        raise InputError(f"{path.parent}: holds step {of_step}; give the directory this name")
    return meta


def nbytes(tree: Any) -> int:
    """Returns the bytes of a tree's arrays, or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def newest_meta(directory: Path) -> dict[str, Any] | None:
    """Returns the meta data of the newest checkpoint whose meta data can be read; None without."""
    for step in reversed(steps_of(directory)):
        with contextlib.suppress(InputError):
            return read_meta(directory, step)
    return None


def latest_step(directory: Path) -> int:
    """Returns the newest step that has a checkpoint.

    Raises:
      InputError: there is no checkpoint.
    """
    steps = steps_of(directory)
    if not steps:
        raise InputError(
            f"{directory}: holds no checkpoint; train for at least train.checkpoint_every steps"
        )
    return max(steps)


def best_step(directory: Path, name: str, better: Better) -> int:
    """Returns the step of the checkpoint at which the evaluation ``name`` was best.

    Raises:
      InputError: ``name`` was measured at no checkpoint.
    """
    measured = {step: _measured(directory, step) for step in steps_of(directory)}
    step = _best(measured, name, better)
    if step is None:
        names = ", ".join(sorted({name for at_step in measured.values() for name in at_step}))
        mend = f"choose from {names}" if names else "give a number"
        raise InputError(f"step: {name!r} was measured at no checkpoint of {directory}; {mend}")
    return step


def steps_of(directory: Path) -> list[int]:
    """Returns the steps that a directory has, ascending; none if it does not exist.

    Files, and folders with other names than a save gives them, are left out.
    """
    entries = [entry for entry in directory.glob("*") if _STEP.fullmatch(entry.name)]
    return sorted(int(entry.name) for entry in entries if entry.is_dir())


def _measured(directory: Path, step: int) -> dict[str, float]:
    """Returns {evaluation: value} of the values that rank checkpoints, measured at this one.

    It is empty if the checkpoint is damaged, or was written by a version that stored no such
    values.
    """
    try:
        return read_meta(directory, step).get("measured", {})
    except InputError:
        return {}


def restore_networks(
    directory: Path, step: int, names: Sequence[str], sharding: Sharding
) -> dict[str, Any]:
    """Restores the network's parameters of some averages, and nothing else, on any devices.

    Args:
      directory: the directory of checkpoints, or of snapshots.
      step: step of the checkpoint or snapshot.
      names: names of the averages.
      sharding: sharding of every array.

    Returns:
      The parameters by the averages' names.

    Raises:
      InputError: the checkpoint is damaged, or not one of this program, or its path has characters
        of a pattern.
    """
    check_path(directory)
    verify(directory / str(step), "ema", "meta")
    path = (directory / str(step) / "ema").absolute()
    try:
        saved = ocp.PyTreeCheckpointHandler().metadata(path).tree
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            {name: {"network": saved[name]["network"]} for name in names},
        )
        restored = ocp.PyTreeCheckpointer().restore(
            path,
            args=ocp.args.PyTreeRestore(
                target,
                restore_args=ocp.checkpoint_utils.construct_restore_args(target),
                partial_restore=True,
            ),
        )
    except Exception as error:
        raise InputError(
            f"{path}: is not a readable checkpoint of this program ({first_line(error)}); "
            "choose another --step"
        ) from error
    # Snapshots of format 1 have no meta data.
    meta = read_meta(directory, step) if (path.parent / "meta").exists() else {}
    return _converted({name: restored[name]["network"] for name in names}, meta)


def _converted(parameters: Any, meta: Mapping[str, Any]) -> Any:
    """Converts parameters, or averages of them, that were saved with ``meta`` to today's format.

    In format 1 the bias of the time-adaptive scale was larger by 1. So are its averages, since
    their weights sum to 1.
    """
    if meta.get("format", 1) > 1:
        return parameters

    def leaf(path: tuple[Any, ...], array: jax.Array) -> jax.Array:
        names = tuple(getattr(key, "key", None) for key in path[-len(SCALE_BIAS) :])
        return jax.device_put(array - 1, array.sharding) if names == SCALE_BIAS else array

    return jax.tree_util.tree_map_with_path(leaf, parameters)
