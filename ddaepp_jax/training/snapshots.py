"""Snapshots: ``snapshots/<step>/`` with the network's power-function averages, by Orbax.

The items are ema, the averages, and meta, their format (see ``ddaepp_jax.training.checkpoint``).
None is ever deleted: ``ddaepp_jax.training.posthoc`` makes other averages from them.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from ddaepp_jax.base.processes import in_first
from ddaepp_jax.training import ema
from ddaepp_jax.training.checkpoint import FORMAT, nbytes, steps_of
from ddaepp_jax.training.saving import Saver
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


class Snapshots:
    """The snapshots of a run in training.

    Saves are asynchronous, and each process writes the parts on its own devices.
    """

    def __init__(self, directory: Path, start: int, checksums: bool = True) -> None:
        """Opens the directory, and removes snapshots after ``start``, where the run continues.

        The run makes them again.

        Raises:
          SaveError: the directory cannot be written.
        """

        def remove() -> None:
            for step in steps_of(directory):
                if step > start:
                    shutil.rmtree(directory / str(step))

        in_first(remove)
        self._saver = Saver(directory, barrier="snapshots", checksums=checksums)

    def save(self, step: int, state: TrainState) -> None:
        """Starts saving, unless the step has a snapshot.

        Raises:
          SaveError: the save cannot start, or the one before failed.
        """
        if step in self._saver.steps():
            return
        content = snapshot_content(state.ema)
        items = ocp.args.Composite(
            ema=ocp.args.StandardSave(content), meta=ocp.args.JsonSave({"format": FORMAT})
        )
        self._saver.save(step, items, nbytes(content))

    def poll(self) -> None:
        """Raises the error of a save that has failed meanwhile (SaveError); it does not wait."""
        self._saver.poll()

    def wait(self) -> None:
        """Waits until all snapshots are on disk, and raises the error of a save (SaveError).

        A run resumed from a checkpoint does not recreate earlier snapshots.
        """
        self._saver.wait()

    def close(self) -> None:
        """Waits for the last save, and raises its error (SaveError)."""
        self._saver.close()
