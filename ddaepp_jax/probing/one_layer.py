"""One layer of a network at one noise level, as it is looked at during training."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ddaepp_jax.base.choice import choose
from ddaepp_jax.build import layers, noise_level
from ddaepp_jax.data.augment import crop_pad
from ddaepp_jax.probing.features import Extraction, extract, noisy, views
from ddaepp_jax.probing.splits import split_rows

if TYPE_CHECKING:
    from ddaepp_jax.evaluators import Context

HELD_OUT = 0.1  # Part of the training split that heads and neighbours don't see.
Labelled = tuple[np.ndarray, np.ndarray]  # Features (N, C) and labels (N,).


class OneLayer:
    """A layer at a noise level; its features are those of images of the training split.

    Attributes:
      name: the layer and the level in metrics' names: ``mid/t11``.
    """

    def __init__(self, layer: str, level: float | None, group: str, context: "Context") -> None:
        """Checks the layer and the level.

        Args:
          layer: name of the network's feature.
          level: noise level in the process's unit; None is the middle of its probe grid.
          group: the config group that errors name.
          context: network, process, data and devices.

        Raises:
          InputError: no such layer or level.
        """
        choose(f"{group}.layer", layer, layers(context.network, context.data.image_shape))
        self._level = noise_level(context.process, level, f"{group}.level")
        self._layer = layer
        self._context = context
        self._features = noisy(context.network, context.process, (layer,))
        self.name = f"{layer}/{context.process.unit}{self._level:g}"

    def _extraction(self, params: Any, pad: int = 0, flip: bool = False) -> Extraction:
        context = self._context
        return Extraction(
            self._features,
            params,
            context.mesh,
            self._level,
            context.seed,
            context.sampling.batch_size,
            pad,
            flip,
        )

    def split(self, images: int) -> Callable[[Any], tuple[Labelled, Labelled]]:
        """Returns a function of the parameters: labelled features to learn from, and to test on.

        Args:
          images: at most this many images of either kind.
        """
        context = self._context
        rows = split_rows(len(context.data), HELD_OUT, context.seed)
        train, test = (part[:images] for part in rows)
        ids = np.concatenate([train, test])
        read = cache(lambda: context.data.gather(ids))

        def measure(params: Any) -> tuple[Labelled, Labelled]:
            pixels, labels = read()
            extraction = self._extraction(params)
            features = extract(extraction, lambda rows: pixels[rows], ids)[self._layer]
            end = len(train)
            return (features[:end], labels[:end]), (features[end:], labels[end:])

        return measure

    def views(self, images: int) -> Callable[[Any], tuple[np.ndarray, np.ndarray]]:
        """Returns a function of the parameters: features (N, C) of two views of each image.

        Args:
          images: at most this many images.
        """
        context = self._context
        ids = split_rows(len(context.data), 0, context.seed)[0][:images]
        read = cache(lambda: context.data.gather(ids)[0])
        pad = crop_pad(context.data.image_shape)

        def measure(params: Any) -> tuple[np.ndarray, np.ndarray]:
            both = views(
                self._extraction(params, pad, context.flip), lambda rows: read()[rows], ids
            )
            return both[self._layer]

        return measure
