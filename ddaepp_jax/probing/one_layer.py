"""One layer of a network at one noise level, as evaluators measure it during training."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ddaepp_jax.base.choice import choose
from ddaepp_jax.base.errors import NonFiniteError
from ddaepp_jax.build import layers
from ddaepp_jax.data.augment import crop_pad
from ddaepp_jax.diffusion.process import level_of
from ddaepp_jax.probing.features import Extraction, Read, extract, noisy, views
from ddaepp_jax.probing.splits import split_rows

if TYPE_CHECKING:
    from ddaepp_jax.evaluators import Context

HELD_OUT = 0.1  # share of the training split on which heads and neighbours are tested
FEWEST = 6  # fewest images of which the share is one
Labelled = tuple[np.ndarray, np.ndarray]  # features (N, C) and labels (N,)


class OneLayer:
    """A layer's features of images of the training split, at one noise level.

    The functions that it returns raise a ``NonFiniteError`` where a feature is not finite.

    Attributes:
      name: the layer and the level in metrics' names, e.g. ``mid/t11``.
    """

    def __init__(self, layer: str, level: float | None, group: str, context: "Context") -> None:
        """Checks the layer and the level.

        Args:
          layer: name of the network's feature.
          level: noise level in the process's unit; None is the middle of its probe grid.
          group: the config's group, which errors name.
          context: the network, process and data.

        Raises:
          InputError: there is no such layer or level.
        """
        choose(f"{group}.layer", layer, layers(context.network, context.data.image_shape))
        level = level_of(context.process, level, f"{group}.level")
        self.name = f"{layer}/{context.process.unit}{level:g}"
        self._layer = layer
        self._data = context.data
        self._flip = context.flip
        self._extraction = Extraction(
            noisy(context.network, context.process, (layer,)),
            None,  # The parameters differ at each evaluation.
            context.mesh,
            level,
            context.seed,
            context.sampling.batch_size,
        )

    def split(self, images: int) -> Callable[[Any], tuple[Labelled, Labelled]]:
        """Returns a function of the parameters that computes labelled features.

        Its first value is of images to learn from, its second of other images to test on. The split
        needs ``FEWEST`` images.

        Args:
          images: largest number of images to learn from, and of images to test on.
        """
        rows = split_rows(len(self._data), HELD_OUT, self._extraction.seed)
        train, test = (part[:images] for part in rows)
        ids = np.concatenate([train, test])
        read = self._kept(ids)

        def compute(params: Any) -> tuple[Labelled, Labelled]:
            extraction = dataclasses.replace(self._extraction, params=params)
            by_layer, labels = extract(extraction, read, ids)
            features = by_layer[self._layer]
            self._check(features)
            end = len(train)
            return (features[:end], labels[:end]), (features[end:], labels[end:])

        return compute

    def views(self, images: int) -> Callable[[Any], tuple[np.ndarray, np.ndarray]]:
        """Returns a function of the parameters that computes features of two views of each image.

        The features are two arrays (N, C).

        Args:
          images: largest number of images.
        """
        ids = split_rows(len(self._data), 0, self._extraction.seed)[0][:images]
        read = self._kept(ids)
        images = self._data.dtype == np.uint8  # Latents are neither cropped nor mirrored.
        pad = crop_pad(self._data.image_shape) if images else 0

        def compute(params: Any) -> tuple[np.ndarray, np.ndarray]:
            extraction = dataclasses.replace(
                self._extraction, params=params, pad=pad, flip=self._flip and images
            )
            both = views(extraction, read, ids)[self._layer]
            self._check(*both)
            return both

        return compute

    def _kept(self, ids: np.ndarray) -> Read:
        """Returns a function that reads batches by their positions in ``ids`` (N,), and keeps them.

        Every evaluation has the same batches, and a process keeps what its own devices hold.
        """
        kept = {}

        def read(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            key = rows.tobytes()
            if key not in kept:
                kept[key] = self._data.gather(ids[rows])
            return kept[key]

        return read

    def _check(self, *features: np.ndarray) -> None:
        if not all(np.isfinite(values).all() for values in features):
            raise NonFiniteError(
                f"the features of {self.name} are NaN or infinite; lower optimizer.learning_rate"
            )
