"""Skipping the data of a step that was not finite.

The batch of a step, and its random numbers, are functions of (seed, number), where number = step +
skipped. A run that is not finite at some step leaves a file that names it. A rollback goes back to
the newest checkpoint, and counts the batches from there to the bad one as skipped: all that the
training sees afterwards is new. The number of skipped batches is saved with each checkpoint.
"""

import json
from pathlib import Path

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.files import write_json

NAME = "not_finite.json"


def record(workdir: Path, step: int, skipped: int) -> None:
    """Writes down the step whose loss or gradient is not finite.

    Args:
      workdir: the run directory.
      step: the step.
      skipped: number of batches that were skipped before it.
    """
    write_json(workdir / NAME, {"step": step, "skipped": skipped})


def skipped_after(workdir: Path, step: int, skipped: int) -> int:
    """Returns the number of skipped batches after a rollback.

    It is larger than ``skipped`` only where training goes from here to the step that was not
    finite. So a second rollback changes nothing, and the command may be repeated after a
    preemption.

    Args:
      workdir: the run directory.
      step: step of the checkpoint from which training continues.
      skipped: number of batches that were skipped before it.

    Raises:
      InputError: the file is damaged.
    """
    file = workdir / NAME
    try:
        bad = json.loads(file.read_text())
        leads_there = bad["skipped"] == skipped and bad["step"] >= step
        return skipped + (bad["step"] - step + 1 if leads_there else 0)
    except FileNotFoundError:
        return skipped
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{file}: is damaged; remove it, and the same command without --rollback writes it "
            "anew at the step that is not finite"
        ) from None
