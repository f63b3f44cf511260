"""The groups of ``config.evals``: what is measured in training, every so many steps (0: never)."""

import dataclasses
from typing import Annotated

from pydantic import Field, PositiveInt

Every = Annotated[int, Field(ge=0, description="0 (off) or more")]
Enough = Annotated[int, Field(ge=10)]  # images that scores and diagnostics need


@dataclasses.dataclass(frozen=True)
class HeldoutLoss:
    """The loss on images that were held out, by noise level."""

    every: Every = 2500
    images: PositiveInt = 256
    levels: PositiveInt = 10


@dataclasses.dataclass(frozen=True)
class Samples:
    """A grid of samples."""

    every: Every = 2500
    n: PositiveInt = 64


@dataclasses.dataclass(frozen=True)
class Fid:
    """The Frechet distance of samples to the training split, and its kin."""

    every: Every = 0
    n: Enough = 5000
    # "classifier" (of the data, trained once), "inception", or an extractor's directory
    extractor: str = "classifier"


@dataclasses.dataclass(frozen=True)
class Probe:
    """A layer's linear accuracy; heads are trained and chosen on images of the training split."""

    every: Every = 2500
    images: PositiveInt = 5000
    layer: str = "bottleneck"
    level: float | None = None  # None: the middle of the process's probe grid


@dataclasses.dataclass(frozen=True)
class Knn:
    """A layer's nearest-neighbour accuracy on images of the training split."""

    every: Every = 2500
    images: PositiveInt = 5000
    layer: str = "bottleneck"
    level: float | None = None
    k: PositiveInt = 20


@dataclasses.dataclass(frozen=True)
class Features:
    """How far two views of an image agree in a layer, and how much of its space the images fill.

    Needs no labels.
    """

    every: Every = 2500
    images: Enough = 1024
    layer: str = "bottleneck"
    level: float | None = None


SETTINGS = {
    "heldout_loss": HeldoutLoss,
    "samples": Samples,
    "fid": Fid,
    "probe": Probe,
    "knn": Knn,
    "features": Features,
}
