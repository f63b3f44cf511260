"""The Frechet distance of samples to the training split, and the other scores."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ddaepp_jax.base.ranges import OrOff
from ddaepp_jax.reporting.panels import Panel

if TYPE_CHECKING:
    from ddaepp_jax.evaluators import Context
    from ddaepp_jax.training.schedule import Evaluation

FEWEST = 10  # The Inception Score has so many splits.


@dataclasses.dataclass(frozen=True)
class Settings:
    """The config's group ``evals.fid``.

    Attributes:
      every: steps between evaluations; 0 turns it off.
      n: number of samples.
      extractor: the network whose features are compared: "classifier", of the data, which is
        trained once; "inception"; or an extractor's directory.
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
      InputError: there is no such extractor, or several processes would train it or write its
        statistics of the data.
    """
    from functools import cache

    import jax
    import numpy as np

    from ddaepp_jax.base.errors import InputError
    from ddaepp_jax.probing.features import Extraction, extract
    from ddaepp_jax.sampling.draw import make_draw
    from ddaepp_jax.scoring import by_name, extractors, image_sets, references, scores
    from ddaepp_jax.training.schedule import Evaluation

    data = context.data
    sampling = context.sampling
    described = by_name.DataSet.of(data)
    images = cache(lambda: image_sets.of_dataset(data, data.split))
    # Looked up now, so that a mistake ends the run before training and not in its middle.
    directory = by_name.extractor_directory(settings.extractor, described)
    present = extractors.there(directory)
    kind = extractors.kind_of(directory) if present else settings.extractor
    extractor = cache(
        lambda: by_name.extractor(
            settings.extractor, described, lambda: (data, context.held_out()), context.mesh
        )
    )
    if jax.process_count() > 1 and not (
        present and references.file_of(images(), extractor()).exists()
    ):
        raise InputError(
            f"evals.fid: {directory} has no statistics of the data yet, and several processes "
            "would write them; run ddaepp_jax.fid once, by itself"
        )
    reference = cache(
        lambda: references.of(images(), extractor(), sampling.batch_size, context.mesh)
    )
    draw = make_draw(
        context.network, context.process, sampling, image_shape=data.image_shape, mesh=context.mesh
    )

    def named(values: dict[str, float]) -> dict[str, float]:
        return scores.named(values, settings.n, kind, sampling.tag, data.split)

    def measure(params: Any) -> dict[str, float]:
        ids = np.arange(settings.n)
        samples = np.concatenate(list(draw(params, context.seed, ids)))
        extraction = Extraction(
            extractor().features, extractor().params, context.mesh, batch_size=sampling.batch_size
        )
        features = extract(extraction, lambda rows: samples[rows], ids)
        return named(scores.scores(features, reference()))

    return Evaluation(settings.every, measure, next(iter(named({"fd": 0.0}))))
