"""The Frechet distance of samples to the training split, and the other scores."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ddaepp_jax.base.ranges import OrOff
from ddaepp_jax.reporting.panels import Panel
from ddaepp_jax.scoring import FEWEST

if TYPE_CHECKING:
    from ddaepp_jax.evaluators import Context
    from ddaepp_jax.training.schedule import Evaluation


@dataclasses.dataclass(frozen=True)
class Settings:
    """The config's group ``evals.fid``.

    Attributes:
      every: steps between evaluations; 0 turns it off.
      n: number of samples.
      extractor: the network whose features are compared: "classifier", a classifier of the data
        that is trained once; "inception"; or an extractor's directory.
    """

    every: OrOff = 0
    n: Annotated[int, Field(ge=FEWEST)] = 5000
    extractor: str = "classifier"


BETTER = min
_NAMES = "fid/.+/(fid|[a-z]+-fd)[0-9]+k?(-[a-z0-9]+)?/.+"
PANELS = (Panel("Frechet distance while training", _NAMES, "distance"),)


def make(settings: Settings, context: "Context") -> "Evaluation":
    """Returns the evaluation; its main value is the Frechet distance.

    Raises:
      InputError: the data have too few images, or there is no such extractor.
    """
    from functools import cache
    from pathlib import Path
    from tempfile import TemporaryDirectory

    import numpy as np

    from ddaepp_jax.base.errors import InputError
    from ddaepp_jax.base.processes import from_first
    from ddaepp_jax.sampling.draw import make_draw
    from ddaepp_jax.scoring import by_name, image_sets, metrics, references
    from ddaepp_jax.scoring.extractors import Extractor
    from ddaepp_jax.scoring.image_sets import ImageSet
    from ddaepp_jax.scoring.references import Reference
    from ddaepp_jax.scoring.score import score
    from ddaepp_jax.training.schedule import Evaluation

    pictures = context.pictures
    data = pictures.train() if pictures else context.data
    held_out = pictures.held_out if pictures else context.held_out
    sampling = context.sampling
    classified = by_name.ClassifierData.of_splits(data, held_out)
    if len(data) < FEWEST:
        raise InputError(
            f"evals.fid.every: {settings.every}, but {data.name} {data.split} has {len(data)} "
            f"images to compare with, and scores need {FEWEST}; turn it off (0), or train on more"
        )
    # The directory is looked up now, so that a mistake ends the run before training.
    kind = from_first(lambda: by_name.kind(settings.extractor, classified))
    if not kind:
        kind = settings.extractor
        held_out()  # The training of the classifier ends with its accuracy there.

    @cache
    def extractor() -> Extractor:
        return by_name.extractor(settings.extractor, classified, context.mesh)

    @cache
    def images() -> ImageSet:
        return image_sets.of_dataset(data, data.split)

    @cache
    def reference() -> Reference | None:
        return references.compute_or_read(images(), extractor(), sampling.batch_size)

    draw = make_draw(
        context.network,
        context.process,
        sampling,
        image_shape=context.data.image_shape,
        mesh=context.mesh,
        decode=pictures and pictures.decode,
    )

    def named(values: dict[str, float]) -> dict[str, float]:
        return metrics.named(values, settings.n, kind, sampling.tag, data.split)

    def measure(params: Any) -> dict[str, float]:
        def drawn(ids: np.ndarray) -> np.ndarray:
            return np.concatenate(list(draw(params, context.seed, ids)))

        samples = image_sets.of_draw(drawn, "samples", data.image_shape, settings.n)
        with TemporaryDirectory() as directory:
            values = score(samples, extractor(), reference(), Path(directory), sampling.batch_size)
        return named(values)

    return Evaluation(settings.every, measure, next(iter(named({"fd": 0.0}))))
