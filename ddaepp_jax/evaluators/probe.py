"""Accuracy of linear heads on one layer at one noise level.

The heads are trained on images of the training split and tested on other images of it.
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
    """The config's group ``evals.probe``.

    Attributes:
      every: steps between evaluations; 0 turns it off.
      images: at most this many images train the heads, and at most as many test them.
      layer: name of the network's feature.
      level: noise level in the process's unit; None is the middle of the process's probe grid.
      epochs: epochs of the heads; None is the number of the protocol "cached".
    """

    every: OrOff = 2500
    images: PositiveInt = 5000
    layer: str = "bottleneck"
    level: float | None = None
    epochs: PositiveInt | None = None


BETTER = max
PANELS = (
    Panel("Linear probe and kNN while training", "(probe|knn)/.+", "accuracy, %", together=False),
    Panel("Linear probe while training", "probe/.+", "accuracy, %", alone=False),
)


def make(settings: Settings, context: "Context") -> "Evaluation | None":
    """Returns the evaluation; None if the data have no labels or too few images."""
    from ddaepp_jax.base.processes import from_first
    from ddaepp_jax.probing.heads import linear_accuracy
    from ddaepp_jax.probing.one_layer import FEWEST, OneLayer
    from ddaepp_jax.probing.protocols import PROTOCOLS
    from ddaepp_jax.training.schedule import Evaluation

    if not context.data.num_classes or not context.suffices(FEWEST, "evals.probe"):
        return None
    layer = OneLayer(settings.layer, settings.level, "evals.probe", context)
    epochs = settings.epochs or PROTOCOLS["cached"].epochs
    protocol = dataclasses.replace(PROTOCOLS["cached"], epochs=epochs)
    split = layer.split(settings.images)

    def measure(params: Any) -> dict[str, float]:
        train, test = split(params)
        accuracy = lambda: linear_accuracy(train, test, protocol, context.data.num_classes)
        return {layer.name: 100 * from_first(accuracy)}

    return Evaluation(settings.every, measure, layer.name)
