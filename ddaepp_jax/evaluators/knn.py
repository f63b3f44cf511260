"""Accuracy of nearest neighbours in one layer at one noise level.

The neighbours are images of the training split, and so are the images that are classified.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

from pydantic import PositiveInt

from ddaepp_jax.base.ranges import OrOff
from ddaepp_jax.reporting.panels import Panel

if TYPE_CHECKING:
    from ddaepp_jax.evaluators import Context
    from ddaepp_jax.training.schedule import Evaluation


@dataclasses.dataclass(frozen=True)
class Settings:
    """The config's group ``evals.knn``.

    Attributes:
      every: steps between evaluations; 0 turns it off.
      images: neighbours are sought among at most this many images, and at most as many others
        are classified.
      layer: name of the network's feature.
      level: noise level in the process's unit; None is the middle of the process's probe grid.
      k: number of neighbours.
    """

    every: OrOff = 2500
    images: PositiveInt = 5000
    layer: str = "bottleneck"
    level: float | None = None
    k: PositiveInt = 20


PANELS = (Panel("kNN while training", "knn/.+", "accuracy, %", alone=False),)


def make(settings: Settings, context: "Context") -> "Evaluation | None":
    """Returns the evaluation; None if the data have no labels or too few images."""
    from ddaepp_jax.base.processes import from_first
    from ddaepp_jax.probing.neighbours import knn_accuracy
    from ddaepp_jax.probing.one_layer import FEWEST, OneLayer
    from ddaepp_jax.training.schedule import Evaluation

    if not context.data.num_classes or not context.suffices(FEWEST, "evals.knn"):
        return None
    layer = OneLayer(settings.layer, settings.level, "evals.knn", context)
    split = layer.split(settings.images)

    def measure(params: Any) -> dict[str, float]:
        bank, query = split(params)
        return {layer.name: 100 * from_first(lambda: knn_accuracy(*bank, *query, settings.k))}

    return Evaluation(settings.every, measure)
