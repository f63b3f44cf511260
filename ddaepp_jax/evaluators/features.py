"""Diagnostics of one layer's features, without labels.

They measure how far two views of an image agree, and how much of their space the features fill. A
collapse of the features is printed.
"""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ddaepp_jax.base.ranges import OrOff
from ddaepp_jax.probing.diagnostics import FEWEST
from ddaepp_jax.reporting.panels import Panel

if TYPE_CHECKING:
    from ddaepp_jax.evaluators import Context
    from ddaepp_jax.training.schedule import Evaluation


@dataclasses.dataclass(frozen=True)
class Settings:
    """The config's group ``evals.features``.

    Attributes:
      every: steps between evaluations; 0 turns it off.
      images: number of images.
      layer: name of the network's feature.
      level: noise level in the process's unit; None is the middle of the process's probe grid.
    """

    every: OrOff = 2500
    images: Annotated[int, Field(ge=FEWEST)] = 1024
    layer: str = "bottleneck"
    level: float | None = None


PANELS = (
    Panel("Effective rank of features", "features/.+/effective_rank", "dimensions"),
    Panel("Uniformity of features", "features/.+/uniformity", "log of a mean"),
    Panel("Spread of features", "features/.+/spread", "deviation × √D"),
    Panel("Alignment of two views", "features/.+/alignment", "squared distance"),
)


def make(settings: Settings, context: "Context") -> "Evaluation | None":
    """Returns the evaluation; None if there are too few images."""
    from tqdm import tqdm

    from ddaepp_jax.base.processes import from_first, is_first
    from ddaepp_jax.probing.diagnostics import collapse, diagnose
    from ddaepp_jax.probing.one_layer import OneLayer
    from ddaepp_jax.training.schedule import Evaluation

    if not context.suffices(FEWEST, "evals.features"):
        return None
    layer = OneLayer(settings.layer, settings.level, "evals.features", context)
    views = layer.views(settings.images)

    def measure(params: Any) -> dict[str, float]:
        both = views(params)
        values = from_first(lambda: diagnose(*both))
        warning = collapse(values)
        if warning and is_first():
            tqdm.write(f"warning: {layer.name}: {warning}")
        return {f"{layer.name}/{name}": value for name, value in values.items()}

    return Evaluation(settings.every, measure)
