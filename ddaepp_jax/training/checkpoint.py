"""Checkpoints: ``checkpoints/<step>/`` with the items params, ema, optimizer, meta, by Orbax."""

import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from ddaepp_jax.errors import InputError, first_line
from ddaepp_jax.training.step import TrainState


class Checkpoints:
    """The checkpoints of a run that trains: asynchronous saves, retention, fallback to the newest good one."""

    def __init__(self, directory: Path, keep: int) -> None:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
        )
        self._directory = directory
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def save(self, state: TrainState, meta: dict[str, Any]) -> None:
        """Start saving; an error of an earlier save is raised here (or by ``close``)."""
        self._manager.check_for_errors()
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            ema=ocp.args.StandardSave(state.ema),
            optimizer=ocp.args.StandardSave(state.opt_state),
            meta=ocp.args.JsonSave(meta),
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
                damage.append(f"{self._directory / str(step)}: cannot be read ({first_line(error)})")
                continue
            self._set_aside(steps[: len(damage)])
            return state, damage
        if damage:
            raise InputError(f"{damage[0]}, and no older one can be either; train into another --workdir")
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
    """A checkpoint's whole state onto the target's shardings, whatever devices it was saved from."""
    checkpointer, path = ocp.StandardCheckpointer(), (directory / str(step)).absolute()
    items = {"params": target.params, "ema": target.ema, "optimizer": target.opt_state}
    params, ema, opt_state = (checkpointer.restore(path / name, shapes) for name, shapes in items.items())
    meta = read_meta(directory, step)
    step_array = jax.make_array_from_callback((), target.step.sharding, lambda _: np.int32(meta["step"]))
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
        raise InputError(f"{path}: not a readable checkpoint of this program ({first_line(error)})") from error


def latest_step(directory: Path) -> int:
    """The newest committed step.

    Raises:
      InputError: there is none.
    """
    steps = [int(entry.name) for entry in directory.glob("*") if entry.name.isdigit()] if directory.is_dir() else []
    if not steps:
        raise InputError(f"{directory}: no checkpoint; has this run saved one (train.checkpoint_every)?")
    return max(steps)


def restore_network(directory: Path, step: int, decay: str, sharding: Sharding) -> Any:
    """The averaged network parameters of a checkpoint, nothing else, on any devices.

    Raises:
      InputError: the checkpoint is not one of this program, or is damaged.
    """
    path = (directory / str(step) / "ema").absolute()
    try:
        tree = ocp.PyTreeCheckpointHandler().metadata(path).tree[decay]["network"]
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)
        wanted = {decay: {"network": target}}
        restored = ocp.PyTreeCheckpointer().restore(
            path,
            args=ocp.args.PyTreeRestore(
                wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted), partial_restore=True
            ),
        )
    except Exception as error:
        raise InputError(f"{path}: not a readable checkpoint of this program ({first_line(error)})") from error
    return restored[decay]["network"]
