"""A grid of samples, of all classes in turn if the network takes labels."""

import dataclasses
from typing import TYPE_CHECKING, Any

from pydantic import PositiveInt

from ddaepp_jax.base.ranges import OrOff

if TYPE_CHECKING:
    from ddaepp_jax.evaluators import Context
    from ddaepp_jax.training.schedule import Evaluation


@dataclasses.dataclass(frozen=True)
class Settings:
    """The config's group ``evals.samples``.

    Attributes:
      every: steps between evaluations; 0 turns it off.
      n: number of images.
    """

    every: OrOff = 2500
    n: PositiveInt = 64


def make(settings: Settings, context: "Context") -> "Evaluation":
    """Returns the evaluation, whose value is a picture."""
    import numpy as np

    from ddaepp_jax.reporting.pictures import grid
    from ddaepp_jax.sampling.draw import make_draw
    from ddaepp_jax.training.schedule import Evaluation

    draw = make_draw(
        context.network,
        context.process,
        context.sampling,
        image_shape=context.data.image_shape,
        mesh=context.mesh,
        decode=context.pictures and context.pictures.decode,
    )

    def measure(params: Any) -> dict[str, Any]:
        images = np.concatenate(list(draw(params, context.seed, np.arange(settings.n))))
        return {"samples": grid(images, columns=context.network.num_classes)}

    return Evaluation(settings.every, measure)
