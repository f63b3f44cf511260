"""Snapshots: ``snapshots/<step>/`` with the network's power-function averages as the item ema, and
their format as the item meta, by Orbax; none is ever deleted.

They are what ``ddaepp_jax.training.posthoc`` makes other averages from.
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


def kept(averages: Mapping[str, Any]) -> dict[str, Any]:
    """What a snapshot holds of a state's ``ema``: ``{"sigma_rel0.05": {"network": ..}, ..}``, or
    its shapes.
    """
    return {
        name: {"network": average["network"]}
        for name, average in averages.items()
        if name.startswith(ema.POWER)
    }


def nbytes(averages: Mapping[str, Any]) -> int:
    """Bytes of one snapshot."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept(averages)))


class Snapshots:
    """The snapshots of a run that trains: asynchronous saves, each device's part by its own
    process.
    """

    def __init__(self, directory: Path, start: int) -> None:
        """The run goes on at step ``start``: what is there past it is removed, and made again."""
        options = ocp.CheckpointManagerOptions(
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
            # Apart from those of the checkpoints, which may be under way at the same time.
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
        """Start saving where it isn't there yet; an error of an earlier save is raised here, or by
        ``wait``.
        """
        if step in self._manager.all_steps():
            return
        self._manager.check_for_errors()
        items = ocp.args.Composite(
            ema=ocp.args.StandardSave(kept(state.ema)), meta=ocp.args.JsonSave({"format": FORMAT})
        )
        self._manager.save(step, args=items)

    def wait(self) -> None:
        """Until all are committed; a checkpoint that follows then vouches for them."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def close(self) -> None:
        """Wait for the last save; raises what went wrong in it."""
        self.wait()
        self._manager.close()
