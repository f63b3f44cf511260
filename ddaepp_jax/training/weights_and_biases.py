"""Logging to Weights & Biases, which never ends a training."""

import re
import secrets
from pathlib import Path
from typing import Any

from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.base.files import replace

PROJECT = "ddaepp_jax"
ID = "wandb_id.txt"
LONGEST = 128  # characters of an id and of a name


class WeightsAndBiases:
    """The run at Weights & Biases that belongs to a run directory.

    A resumed run continues it. Weights & Biases ignores rows up to the last step that it has; the
    resumed run computes the same numbers again, so nothing is missing there.
    """

    def __init__(self, workdir: Path, config: dict[str, Any]) -> None:
        """Starts or continues the run.

        Args:
          workdir: the run directory; its name is the run's name.
          config: is logged.

        Raises:
          InputError: the package is not installed, the run cannot start, or the file of the id
            holds something else.
        """
        try:
            import wandb
        except ImportError:
            raise InputError(
                "logging.wandb: wandb is not installed; pip install 'ddaepp_jax[wandb]'"
            ) from None
        name = workdir.resolve().name[:LONGEST]
        own_id = _id(workdir / ID)
        try:
            self._run = wandb.init(
                project=PROJECT, name=name, id=own_id, resume="allow", dir=workdir, config=config
            )
        except Exception as error:  # Its own errors, and those of the network.
            raise InputError(
                f"logging.wandb: the run cannot start ({first_line(error)}); run `wandb login`, or "
                "set WANDB_MODE=offline or logging.wandb=False"
            ) from None
        self._broken = False

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Logs numbers by name; after an error, which is printed, it logs nothing more."""
        if self._broken:
            return
        try:
            self._run.log(values, step=step)
        except Exception as error:
            self._warn(f"the rows from step {step:,} on are missing there", error)

    def finish(self, failed: bool) -> None:
        """Ends the run, as failed or as finished; an error is printed."""
        try:
            self._run.finish(exit_code=int(failed))
        except Exception as error:
            self._warn("its last rows may be missing there", error)

    def _warn(self, loss: str, error: Exception) -> None:
        self._broken = True
        print(
            f"warning: Weights & Biases: {first_line(error)}; {loss}, and metrics.jsonl has all",
            flush=True,
        )


def _id(file: Path) -> str:
    """Returns the id in a file; writes a random one if there is no file.

    Raises:
      InputError: the file holds no id, or cannot be read or written.
    """
    try:
        if not file.exists():
            replace(file, f"{secrets.token_hex(8)}\n".encode())
        content = file.read_bytes().strip().decode("ascii", errors="replace")
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read or written ({error.strerror}); remove it, or set "
            "logging.wandb=False"
        ) from None
    if not re.fullmatch(rf"[A-Za-z0-9_-]{{1,{LONGEST}}}", content):
        raise InputError(
            f"{file}: is not the id of a run at Weights & Biases; remove it to start another there"
        )
    return content
