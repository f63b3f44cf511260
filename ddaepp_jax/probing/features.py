"""Pooled inner features of noisy images: the representation that a denoiser learns.

Raw pixels have the same form here: they are the baseline to beat.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh

from ddaepp_jax.base import parallel
from ddaepp_jax.base.dispatch import InFlight
from ddaepp_jax.base.errors import Stopped
from ddaepp_jax.data.augment import crop_and_flip, to_float
from ddaepp_jax.diffusion.noise import image_keys, step_noise
from ddaepp_jax.diffusion.process import Process
from ddaepp_jax.probing.diagnostics import PIXELS

# (network's parameters, images in [-1, 1] (B, H, W, C), keys (B,), draw, noise level) ->
# {layer: (B, C) float32}
Features = Callable[[Any, Array, Array, Array, Array], dict[str, Array]]
FeatureBatch = Callable[..., dict[str, Array]]
# (B,) positions or numbers of images -> images (B, H, W, C) and labels (B,) int32
Read = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

PIXEL_SIZE = 32  # Larger images are reduced to this many pixels a side.


@dataclasses.dataclass(frozen=True)
class Extraction:
    """How features are computed; the defaults suit features of clean images.

    Attributes:
      features: the function that computes them.
      params: the network's parameters, on every device.
      mesh: the devices.
      level: noise level, in the type that the process takes.
      seed: image i's noise is a function of (seed, i).
      batch_size: images of a forward pass.
      pad: pixels of the border around an image, out of which it is cropped.
      flip: whether images are mirrored by a fair coin.
    """

    features: Features
    params: Any
    mesh: Mesh
    level: int | float | np.number = 0
    seed: int = 0
    batch_size: int = 256
    pad: int = 0
    flip: bool = False


def pool(feature: Array) -> Array:
    """Returns the mean over space or tokens in float32: (B, .., C) -> (B, C)."""
    return feature.astype(jnp.float32).mean(axis=tuple(range(1, feature.ndim - 1)))


@lru_cache(maxsize=16)
def noisy(network: nn.Module, process: Process, layers: tuple[str, ...]) -> Features:
    """Returns the function that computes a network's features of noisy images.

    One forward pass computes all ``layers`` and ends after the last of them. An image's noise is a
    function of its key and the draw. A network that takes labels gets the null class.
    """

    def features(
        params: Any, x0: Array, keys: Array, draw: Array, level: Array
    ) -> dict[str, Array]:
        levels = jnp.full(keys.shape, level)
        x_t = process.perturb(x0, step_noise(keys, draw, x0.shape[1:]), levels)
        _, inner = network.apply(
            {"params": params}, *process.inputs(x_t, levels), capture=layers, stop=True
        )
        return {layer: pool(inner[layer]) for layer in layers}

    return features


def pixels(params: Any, x0: Array, keys: Array, draw: Array, level: Array) -> dict[str, Array]:
    """Returns clean pixels as features; images larger than ``PIXEL_SIZE`` are averaged down."""
    del params, keys, draw, level
    height, width = (min(side, PIXEL_SIZE) for side in x0.shape[1:3])
    small = jax.image.resize(x0, (len(x0), height, width, x0.shape[-1]), "linear")
    return {PIXELS: small.reshape(len(x0), -1)}


@lru_cache(maxsize=16)
def make_feature_batch(features: Features, mesh: Mesh, pad: int, flip: bool) -> FeatureBatch:
    """Returns ``(params, seed, images, ids, level, draw) -> {layer: (B, C) float32}``, compiled.

    Images are uint8 or latents (B, H, W, C), and ids (B,) are their numbers. Image i's noise, crop
    and mirroring are functions of (seed, draw, i). Calls with equal arguments share a function, so
    that all noise levels share a compilation; the arguments are fields of ``Extraction``.
    """

    def feature_batch(
        params: Any, seed: Array, images: Array, ids: Array, level: Array, draw: Array
    ) -> dict[str, Array]:
        images = crop_and_flip(images, seed, draw, ids, pad=pad, flip=flip)
        return features(params, to_float(images), image_keys(seed, "features", ids), draw, level)

    return jax.jit(feature_batch, out_shardings=parallel.replicated(mesh))


def unlabelled(read: Callable[[np.ndarray], np.ndarray]) -> Read:
    """Returns a function that reads images (B, H, W, C) with labels of 0."""
    return lambda rows: (read(rows), np.zeros(len(rows), np.int32))


def extract_batches(
    extraction: Extraction,
    read: Read,
    ids: np.ndarray,
    draws: Sequence[int] = (0,),
    computed: bool = False,
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Computes features of images, averaged over draws of the noise.

    All processes call it, and get all features.

    Args:
      extraction: how the features are computed.
      read: maps (B,) positions in ``ids`` to images and labels; a process reads what its own
        devices hold.
      ids: (N,) int, the images' numbers, which decide their noise, crops and mirroring.
      draws: numbers of the draws.
      computed: as in ``parallel.read_rows``.

    Yields:
      Features {layer: (b, C) float32} and labels (b,) of successive batches; where a signal stops
      the reading, those of all batches that were read.
    """
    mesh = extraction.mesh
    feature_batch = make_feature_batch(extraction.features, mesh, extraction.pad, extraction.flip)
    seed = jnp.uint32(extraction.seed)
    level = jnp.asarray(extraction.level)

    def averaged(
        results: list[dict[str, Array]], labels: Array, count: int
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        if len(results) == 1:
            features = {layer: np.asarray(values)[:count] for layer, values in results[0].items()}
        else:
            features = {
                layer: np.mean([result[layer] for result in results], axis=0)[:count]
                for layer in results[0]
            }
        return features, np.asarray(labels)[:count]

    in_flight = InFlight[tuple[list[dict[str, Array]], Array, int]]()
    for rows, count in parallel.batches(len(ids), extraction.batch_size, mesh):
        try:
            images, labels = parallel.read_rows(mesh, rows, read, computed)
        except Stopped:
            for finished in in_flight.finish():
                yield averaged(*finished)
            raise
        (numbers,) = parallel.place(mesh, ids[rows].astype(np.int32))
        results = [
            feature_batch(extraction.params, seed, images, numbers, level, jnp.uint32(draw))
            for draw in draws
        ]
        for finished in in_flight.add((results, parallel.on_host(labels), count)):
            yield averaged(*finished)
    for finished in in_flight.finish():
        yield averaged(*finished)


def extract(
    extraction: Extraction, read: Read, ids: np.ndarray, draws: Sequence[int] = (0,)
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Computes features {layer: (N, C) float32} and reads labels (N,).

    The arguments are ``extract_batches``'s.
    """
    batches, labels = zip(*extract_batches(extraction, read, ids, draws), strict=True)
    features = {layer: np.concatenate([batch[layer] for batch in batches]) for layer in batches[0]}
    return features, np.concatenate(labels)


def views(
    extraction: Extraction, read: Read, ids: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Computes features of two views of each image, which are two draws of noise, crop and mirror.

    The arguments are ``extract_batches``'s.

    Returns:
      {layer: two arrays (N, C) float32}.
    """
    first, second = (extract(extraction, read, ids, (draw,))[0] for draw in range(2))
    return {layer: (first[layer], second[layer]) for layer in first}
