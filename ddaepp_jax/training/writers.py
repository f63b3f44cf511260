"""Writes metrics and pictures: metrics.jsonl, TensorBoard, PNG files, and Weights & Biases."""

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.files import replace
from ddaepp_jax.training import rows
from ddaepp_jax.training.weights_and_biases import WeightsAndBiases


class Writer:
    """The metrics and pictures of a run; only the first process writes them.

    It is a context manager: a run that ends in an error is marked as failed at Weights & Biases. A
    resumed run continues the files. Rows after the step at which it resumes are removed, so that no
    step appears twice.
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
          workdir: the run directory, which exists.
          active: whether this process writes.
          start: step at which training starts or resumes.
          tensorboard: also write TensorBoard events.
          wandb: also log to Weights & Biases.
          config: logged to Weights & Biases.

        Raises:
          InputError: a file cannot be written, or Weights & Biases cannot be used. Methods raise it
            too, e.g. where the disk is full.
        """
        self._directory = workdir
        self._active = active
        self._events = None
        self._wandb = None
        if not active:
            return
        self._file = workdir / rows.NAME
        rows.check_writable(self._file)
        with _writing(self._file):
            _say_damaged(self._file, rows.cut(self._file, start))
        if tensorboard:
            from ddaepp_jax.training.events import Events

            with self._writing_events():
                self._events = Events(workdir / "tensorboard", start)
        if wandb:
            self._wandb = WeightsAndBiases(workdir, config)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes one row to metrics.jsonl: {"step": .., name: value, ..}."""
        if not self._active:
            return
        with _writing(self._file), self._file.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._events:
            with self._writing_events():
                self._events.scalars(step, values)
        if self._wandb:
            self._wandb.scalars(step, values)

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        """Writes a picture to ``<name>/<step>.png``."""
        if not self._active:
            return
        path = self._directory / name / f"{step:08d}.png"
        content = io.BytesIO()
        picture.save(content, format="png")
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(path, content.getvalue())
        if self._events:
            with self._writing_events():
                self._events.picture(step, name, picture)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes TensorBoard and Weights & Biases."""
        failed = True
        try:
            if self._events:
                with self._writing_events():
                    self._events.close()
            failed = error is not None
        finally:
            if self._wandb:
                self._wandb.finish(failed)

    def _writing_events(self) -> contextlib.AbstractContextManager[None]:
        return _writing(self._directory / "tensorboard", ", or set logging.tensorboard=False")


@contextlib.contextmanager
def _writing(path: Path, mend: str = "") -> Iterator[None]:
    """Turns an error of writing into one line; ``mend`` is a second way to go on."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); mend that{mend}, and the same command "
            "resumes"
        ) from None


def _say_damaged(file: Path, number: int) -> None:
    """Prints how many lines of a file were no rows, if there were any."""
    if number:
        noun = "line was no row" if number == 1 else "lines were no rows"
        print(f"warning: {file}: {number:,} {noun} of metrics; moved to {file.name}.damaged")
