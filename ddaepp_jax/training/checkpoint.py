"""Checkpoints: ``checkpoints/<step>/`` with the items params, ema, optimizer, meta, by Orbax.

The meta data hold the format of the arrays. Format 1, that of version 0.1, has no such entry: it
stored the time-adaptive scale of self-conditioning as s(t) = Linear(..), whose bias starts at 1.
Format 2 stores s(t) - 1. Networks of format 1 are converted when they are read.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.training.step import TrainState

FORMAT = 2  # of the arrays that are written today
SCALE_BIAS = ("self_conditioning", "scale", "bias")

# Which end of a measured value is the better one: min or max.
Better = Callable[[Iterable[float]], float]


class _Keep(ocp.checkpoint_managers.PreservationPolicy):
    """The newest checkpoints, and the best of those in which a ranked value was measured; the older
    of equal ones.
    """

    def __init__(self, newest: int, ranks: Mapping[str, Better], directory: Path) -> None:
        self._newest, self._ranks = newest, ranks
        self.measured = {step: _measured(directory, step) for step in steps_of(directory)}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        measured = {step: self.measured.get(step, {}) for step in steps}
        kept = {
            *steps[-self._newest :],
            *(_best(measured, name, better) for name, better in self._ranks.items()),
        }
        return [step in kept for step in steps]


def _best(measured: Mapping[int, Mapping[str, float]], name: str, better: Better) -> int | None:
    """The first step with the best value of ``name``."""
    values = {step: found[name] for step, found in measured.items() if name in found}
    return next((step for step in sorted(values) if values[step] == better(values.values())), None)


class Checkpoints:
    """The checkpoints of a run that trains: asynchronous saves, retention, fallback to the newest
    good one.
    """

    def __init__(self, directory: Path, keep: int, ranks: Mapping[str, Better]) -> None:
        """``keep`` newest checkpoints stay, and for each of ``ranks`` the one whose measured value
        is best.
        """
        self._keep = _Keep(keep, ranks, directory)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._keep,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        self._directory = directory
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def save(self, state: TrainState, meta: dict[str, Any]) -> None:
        """Start saving; an error of an earlier save is raised here (or by ``close``)."""
        self._manager.check_for_errors()
        self._keep.measured[meta["step"]] = meta["measured"]
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            ema=ocp.args.StandardSave(state.ema),
            optimizer=ocp.args.StandardSave(state.opt_state),
            meta=ocp.args.JsonSave({**meta, "format": FORMAT}),
        )
        self._manager.save(meta["step"], args=items)

    def restore(self, target: TrainState) -> tuple[TrainState, list[str]] | None:
        """The newest checkpoint that can be read, onto the target's shardings.

        Returns:
          The state, and a line for each newer checkpoint that could not be read (set aside as
          ``damaged-<step>``); None where there is no checkpoint at all.

        Raises:
          InputError: there are checkpoints, and none can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        damage: list[str] = []
        for step in steps:
            try:
                state = restore_state(self._directory, step, target)
            except Exception as error:  # whatever a damaged file makes of itself
                damage.append(
                    f"{self._directory / str(step)}: cannot be read ({first_line(error)})"
                )
                continue
            self._set_aside(steps[: len(damage)])
            return state, damage
        if damage:
            raise InputError(
                f"{damage[0]}, and no older one can be either; train into another --workdir"
            )
        return None

    def _set_aside(self, steps: list[int]) -> None:
        if not steps:
            return
        if jax.process_index() == 0:
            for step in steps:
                aside = self._directory.parent / f"damaged-{step}"
                shutil.rmtree(aside, ignore_errors=True)  # the same step's, from an earlier time
                os.rename(self._directory / str(step), aside)
        multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        self._manager.reload()

    def close(self) -> None:
        """Wait for the last save; raises what went wrong in it."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()
        self._manager.close()


def restore_state(directory: Path, step: int, target: TrainState) -> TrainState:
    """A checkpoint's whole state onto the target's shardings, whatever devices it was saved
    from.
    """
    checkpointer, path = ocp.StandardCheckpointer(), (directory / str(step)).absolute()
    items = {"params": target.params, "ema": target.ema, "optimizer": target.opt_state}
    params, ema, opt_state = (
        checkpointer.restore(path / name, shapes) for name, shapes in items.items()
    )
    meta = read_meta(directory, step)
    params, ema = _converted((params, ema), meta.get("format", 1))
    step_array = jax.make_array_from_callback(
        (), target.step.sharding, lambda _: np.int32(meta["step"])
    )
    return TrainState(step_array, params, ema, opt_state)


def read_meta(directory: Path, step: int) -> dict[str, Any]:
    """What was saved beside the arrays.

    Raises:
      InputError: there is no such checkpoint, or it is damaged.
    """
    path = (directory / str(step) / "meta").absolute()
    try:
        return ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(path)
    except Exception as error:
        raise InputError(
            f"{path}: not a readable checkpoint of this program ({first_line(error)})"
        ) from error


def latest_step(directory: Path) -> int:
    """The newest committed step.

    Raises:
      InputError: there is none.
    """
    steps = steps_of(directory)
    if not steps:
        raise InputError(
            f"{directory}: no checkpoint; has this run saved one (train.checkpoint_every)?"
        )
    return max(steps)


def best_step(directory: Path, name: str, better: Better) -> int:
    """The step in whose checkpoint the evaluation ``name`` was best.

    Raises:
      InputError: it was measured at no checkpoint.
    """
    measured = {step: _measured(directory, step) for step in steps_of(directory)}
    step = _best(measured, name, better)
    if step is None:
        names = sorted({known for found in measured.values() for known in found})
        there = f"there is {', '.join(names)}" if names else "none was"
        raise InputError(f"step: {name!r} was measured at no checkpoint of {directory}; {there}")
    return step


def steps_of(directory: Path) -> list[int]:
    """Committed steps, ascending."""
    return (
        sorted(int(e.name) for e in directory.glob("*") if e.name.isdigit())
        if directory.is_dir()
        else []
    )


def _measured(directory: Path, step: int) -> dict[str, float]:
    """What was measured at a checkpoint, by evaluation; nothing where it is damaged or older than
    these values.
    """
    try:
        return read_meta(directory, step).get("measured", {})
    except InputError:
        return {}


def restore_networks(
    directory: Path, step: int, names: Sequence[str], sharding: Sharding
) -> dict[str, Any]:
    """The network parameters of some averages of a checkpoint, or of a snapshot; nothing else, on
    any devices.

    Raises:
      InputError: the checkpoint is not one of this program, or is damaged.
    """
    path = (directory / str(step) / "ema").absolute()
    try:
        tree = ocp.PyTreeCheckpointHandler().metadata(path).tree
        trees = {name: {"network": tree[name]["network"]} for name in names}
        wanted = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), trees
        )
        restored = ocp.PyTreeCheckpointer().restore(
            path,
            args=ocp.args.PyTreeRestore(
                wanted,
                restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                partial_restore=True,
            ),
        )
    except Exception as error:
        raise InputError(
            f"{path}: not a readable checkpoint of this program ({first_line(error)})"
        ) from error
    meta = read_meta(directory, step) if (path.parent / "meta").exists() else {}
    networks = {name: restored[name]["network"] for name in names}
    return _converted(networks, meta.get("format", 1))


def _converted(parameters: Any, version: int) -> Any:
    """Converts parameters that were written in format ``version`` to today's.

    Averages need no other treatment than the parameters themselves: their weights sum to 1.
    """
    if version > 1:
        return parameters

    def leaf(path: tuple[Any, ...], array: jax.Array) -> jax.Array:
        names = tuple(getattr(key, "key", None) for key in path[-len(SCALE_BIAS) :])
        return jax.device_put(array - 1, array.sharding) if names == SCALE_BIAS else array

    return jax.tree_util.tree_map_with_path(leaf, parameters)
