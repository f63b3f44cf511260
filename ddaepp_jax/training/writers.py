"""Writes metrics and pictures: metrics.jsonl, TensorBoard, PNG files, and Weights & Biases."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddaepp_jax.base.errors import InputError


class Writer:
    """The metrics and pictures of a run; only the first process writes them.

    A resumed run continues the files. Rows after the step at which it resumes are removed, so that
    no step appears twice.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        active: bool,
        start: int,
        tensorboard: bool,
        wandb: bool,
        config: dict[str, Any],
    ) -> None:
        """Opens the files.

        Args:
          active: whether this process writes.
          start: step at which training starts or resumes.
          tensorboard: also write TensorBoard events.
          wandb: also log to Weights & Biases.
          config: logged to Weights & Biases.

        Raises:
          InputError: ``wandb`` is set, but the package is not installed.
        """
        self._directory = workdir
        self._active = active
        self._events = None
        self._wandb = None
        if not active:
            return
        self._file = workdir / "metrics.jsonl"
        rows = self._file.read_text().splitlines(keepends=True) if self._file.exists() else []
        # A row without its newline was cut off when a process died.
        complete = [row for row in rows if row.endswith("\n")]
        self._file.write_text("".join(row for row in complete if json.loads(row)["step"] <= start))
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(
                str(workdir / "tensorboard"), purge_step=start + 1 if start else None
            )
        if wandb:
            self._wandb = _wandb_run(workdir, config)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes one row to metrics.jsonl: {"step": .., name: value, ..}."""
        if not self._active:
            return
        with self._file.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._events:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.log(values, step=step)

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        """Writes a picture to ``<name>/<step>.png``."""
        if not self._active:
            return
        path = self._directory / name / f"{step:08d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        if self._events:
            self._events.add_image(
                name, np.asarray(picture), step, dataformats="HW" if picture.mode == "L" else "HWC"
            )

    def close(self) -> None:
        """Flushes and closes TensorBoard and Weights & Biases."""
        if self._events:
            self._events.close()
        if self._wandb:
            self._wandb.finish()


def _wandb_run(workdir: Path, config: dict[str, Any]) -> Any:
    try:
        import wandb
    except ImportError:
        raise InputError(
            "logging.wandb: wandb is not installed; pip install 'ddaepp_jax[wandb]'"
        ) from None
    return wandb.init(
        project="ddaepp_jax",
        name=workdir.name,
        id=workdir.name,
        resume="allow",
        dir=workdir,
        config=config,
    )
