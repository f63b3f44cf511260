"""Where metrics and pictures go: metrics.jsonl, TensorBoard events, samples/*.png, and Weights &
Biases if asked.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddaepp_jax.base.errors import InputError


class Writer:
    """The files of a run, written by the first process alone (``active``).

    A resumed run continues them: rows past the restored step are cut, so that nothing is there
      twice.
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
        self._directory, self._active, self._events, self._wandb = workdir, active, None, None
        if not active:
            return
        self._file = workdir / "metrics.jsonl"
        rows = self._file.read_text().splitlines(keepends=True) if self._file.exists() else []
        self._file.write_text(
            "".join(row for row in rows if row.endswith("\n") and json.loads(row)["step"] <= start)
        )
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(
                str(workdir / "tensorboard"), purge_step=start + 1 if start else None
            )
        if wandb:
            self._wandb = _wandb_run(workdir, config)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One row of metrics.jsonl: {"step": .., name: value, ..}."""
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
        """A picture to ``<name>/<step>.png``."""
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
