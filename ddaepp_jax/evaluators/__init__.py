"""Evaluators, which measure a network during training: each module of this package is one.

An evaluator ``NAME`` has

  Settings: a frozen dataclass, the config's group ``evals.NAME``. Its first field is ``every``, the
    number of steps between two evaluations (0: never).
  PANELS: the panels that a report draws of its metrics, if any.
  BETTER: ``min`` or ``max``, if its main value ranks checkpoints.
  make(settings, context): returns an ``Evaluation(every, measure, best)``, or None if these data
    don't allow the evaluation. ``measure`` takes the network's parameters and returns values by
    name; ``best`` is the name of the main value. Nothing is read or compiled before it is due.

A module outside of the package becomes an evaluator by ``register(module)``, for instance in a
config file. Modules import heavy packages inside ``make``, so that a report and ``--help`` read
``Settings`` and ``PANELS`` without JAX.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from flax import linen as nn
    from jax.sharding import Mesh

    from ddaepp_jax.data.datasets import Dataset
    from ddaepp_jax.diffusion.process import Process
    from ddaepp_jax.reporting.panels import Panel
    from ddaepp_jax.sampling.settings import Sampling
    from ddaepp_jax.training.schedule import Evaluation
    from ddaepp_jax.training.step import TrainState


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The pictures of latents.

    Attributes:
      train: opens the images whose latents are the training split.
      held_out: opens those of the split that is never trained on.
      decode: maps normalised latents (N, h, w, C) to pictures (N, H, W, 3) uint8.
    """

    train: Callable[[], Dataset]
    held_out: Callable[[], Dataset]
    decode: Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Context:
    """The network, process, data and settings that every evaluator receives.

    Attributes:
      network: the network, a Flax module.
      process: its diffusion process.
      data: the training split.
      held_out: opens the split that is never trained on.
      mesh: the devices.
      sampling: how images are sampled; its batch size is that of all evaluations.
      seed: the run's seed.
      flip: whether training mirrors images.
      pictures: the pictures of a run on latents; None where ``data`` has images.
    """

    network: nn.Module
    process: Process
    data: Dataset
    held_out: Callable[[], Dataset]
    mesh: Mesh
    sampling: Sampling
    seed: int
    flip: bool
    pictures: Pictures | None = None

    def suffices(self, fewest: int, group: str) -> bool:
        """Returns whether the training split has ``fewest`` images; if not, a line says so.

        Args:
          fewest: number of images without which the config's ``group`` measures nothing.
        """
        from ddaepp_jax.base.processes import is_first

        enough = len(self.data) >= fewest
        if not enough and is_first():
            print(
                f"{group} is off: {self.data.name} {self.data.split} has {len(self.data)} images, "
                f"and it needs {fewest}",
                flush=True,
            )
        return enough


_MODULES: dict[str, ModuleType] = {}


def register(module: ModuleType) -> None:
    """Makes a module an evaluator, with the last part of the module's name as its name."""
    _MODULES[module.__name__.rpartition(".")[2]] = module


for _module in pkgutil.iter_modules(__path__):
    register(importlib.import_module(f"{__name__}.{_module.name}"))


def settings() -> dict[str, type]:
    """Returns the ``Settings`` class of each evaluator by name."""
    return {name: module.Settings for name, module in _MODULES.items()}


def panels() -> list[Panel]:
    """Returns the panels of all evaluators."""
    return [panel for module in _MODULES.values() for panel in getattr(module, "PANELS", ())]


def better() -> dict[str, Callable[[Iterable[float]], float]]:
    """Returns ``min`` or ``max`` for each evaluator whose main value ranks checkpoints."""
    return {name: m.BETTER for name, m in _MODULES.items() if hasattr(m, "BETTER")}


def make(
    groups: Mapping[str, Mapping[str, Any]], context: Context, decay: float
) -> dict[str, Evaluation]:
    """Makes the evaluations whose ``every`` is not 0, by the evaluator's name.

    Args:
      groups: ``config.evals``, the settings of each evaluator.
      context: the network, process and data that are measured.
      decay: decay of the average of the weights that is measured; it stands in metrics' names, as
        in ``heldout_loss/ema0.999/mean``.

    Raises:
      InputError: a setting doesn't fit the network, the process or the data.
    """
    evaluations = {}
    for name, module in _MODULES.items():
        group = module.Settings(**groups[name])
        evaluation = module.make(group, context) if group.every else None
        if evaluation is not None:
            evaluations[name] = _of_average(evaluation, str(decay))
    return evaluations


def _of_average(evaluation: Evaluation, decay: str) -> Evaluation:
    """Returns an evaluation of one average in the train state.

    The names of its numbers begin with the average's, e.g. ``ema0.999/mean``; pictures keep their
    names.
    """
    from PIL.Image import Image

    def measure(state: TrainState) -> dict[str, Any]:
        values = evaluation.measure(state.ema[decay]["network"])
        pictures = {name: value for name, value in values.items() if isinstance(value, Image)}
        numbers = {f"ema{decay}/{name}": values[name] for name in values if name not in pictures}
        return numbers | pictures

    best = f"ema{decay}/{evaluation.best}" if evaluation.best else ""
    return dataclasses.replace(evaluation, measure=measure, best=best)
