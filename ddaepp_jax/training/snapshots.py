"""Snapshots: ``snapshots/<step>/`` with the network's power-function averages, by Orbax.

The items are ema, the averages, and meta, their format (see ``ddaepp_jax.training.checkpoint``).
None is ever deleted: ``ddaepp_jax.training.posthoc`` makes other averages from them.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from ddaepp_jax.training import ema
from ddaepp_jax.training.checkpoint import FORMAT, steps_of
from ddaepp_jax.training.step import TrainState


def snapshot_content(averages: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the averages that a snapshot holds: ``{"sigma_rel0.05": {"network": ..}, ..}``.

    Args:
      averages: a state's ``ema``, or its shapes.
    """
    return {
        name: {"network": average["network"]}
        for name, average in averages.items()
        if name.startswith(ema.POWER)
    }


def nbytes(averages: Mapping[str, Any]) -> int:
    """Returns the bytes of one snapshot."""
    leaves = jax.tree.leaves(snapshot_content(averages))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


class Snapshots:
    """The snapshots of a run in training.

    Saves are asynchronous, and each process writes the parts on its own devices.
    """

    def __init__(self, directory: Path, start: int) -> None:
        """Opens the directory, and removes snapshots after ``start``, where the run continues.

        The run makes them again.
        """
        options = ocp.CheckpointManagerOptions(
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
            # Checkpoints may be saved at the same time: their barriers have other names.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                barrier_sync_key_prefix="snapshots"
            ),
        )
        if jax.process_index() == 0:
            for step in steps_of(directory):
                if step > start:
                    shutil.rmtree(directory / str(step))
        multihost_utils.sync_global_devices("snapshots past the step are removed")
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def save(self, step: int, state: TrainState) -> None:
        """Starts saving, unless the step has a snapshot.

        An error of an earlier save is raised here, or by ``wait``.
        """
        if step in self._manager.all_steps():
            return
        self._manager.check_for_errors()
        items = ocp.args.Composite(
            ema=ocp.args.StandardSave(snapshot_content(state.ema)),
            meta=ocp.args.JsonSave({"format": FORMAT}),
        )
        self._manager.save(step, args=items)

    def wait(self) -> None:
        """Waits until all snapshots are on disk, and raises the error of a save.

        A run resumed from a checkpoint does not recreate earlier snapshots.
        """
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def close(self) -> None:
        """Waits for the last save, and raises its error."""
        self.wait()
        self._manager.close()
