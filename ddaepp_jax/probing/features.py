"""Pooled inner features of noisy images: the representation that a denoiser learns. And raw pixels,
to beat.
"""

from collections import deque
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
from ddaepp_jax.data.augment import crop_and_flip, to_float
from ddaepp_jax.diffusion.noise import image_keys, step_noise
from ddaepp_jax.diffusion.process import Process
from ddaepp_jax.probing.diagnostics import PIXELS

# (network's parameters, images in [-1, 1] (B, H, W, C), keys (B,), draw, level) -> {layer: (B, C)
# float32}
Features = Callable[[Any, Array, Array, Array, Array], dict[str, Array]]
FeatureBatch = Callable[..., dict[str, Array]]

PIXEL_SIZE = 32  # larger images are reduced to so many pixels a side


def pool(feature: Array) -> Array:
    """Mean over space or tokens, in float32: (B, .., C) -> (B, C)."""
    return feature.astype(jnp.float32).mean(axis=tuple(range(1, feature.ndim - 1)))


@lru_cache(maxsize=16)
def noisy(network: nn.Module, process: Process, layers: tuple[str, ...]) -> Features:
    """Features of a network at a noise level, by one forward pass for all ``layers``; what they
    don't need is pruned.

    An image's noise is a function of its key and the draw. A network with labels is given the null
    class.
    """

    def features(
        params: Any, x0: Array, keys: Array, draw: Array, level: Array
    ) -> dict[str, Array]:
        levels = jnp.full(keys.shape, level)
        x_t = process.perturb(x0, step_noise(keys, draw, x0.shape[1:]), levels)
        _, found = network.apply({"params": params}, *process.inputs(x_t, levels), capture=layers)
        return {layer: pool(found[layer]) for layer in layers}

    return features


def pixels(params: Any, x0: Array, keys: Array, draw: Array, level: Array) -> dict[str, Array]:
    """The baseline: clean pixels as a feature, averaged down where an image is larger than
    ``PIXEL_SIZE``.
    """
    del params, keys, draw, level
    height, width = (min(side, PIXEL_SIZE) for side in x0.shape[1:3])
    small = jax.image.resize(x0, (len(x0), height, width, x0.shape[-1]), "linear")
    return {PIXELS: small.reshape(len(x0), -1)}


@lru_cache(maxsize=16)
def make_feature_batch(
    features: Features, mesh: Mesh, *, pad: int = 0, flip: bool = False
) -> FeatureBatch:
    """Compile-once function ``(params, seed, images uint8 or latents, ids, level, draw) -> {layer:
    (B, C) float32}``.

    The same for the same ``features``, so that several noise levels are one compilation.

    Images are cropped out of ``pad`` pixels around, and mirrored by a fair coin where ``flip``.
    Image i's noise, crop and mirror are functions of (seed, draw, i).
    """

    def feature_batch(
        params: Any, seed: Array, images: Array, ids: Array, level: Array, draw: Array
    ) -> dict[str, Array]:
        images = crop_and_flip(images, seed, draw, ids, pad=pad, flip=flip)
        x0 = to_float(images) if images.dtype == jnp.uint8 else images  # latents
        return features(params, x0, image_keys(seed, "features", ids), draw, level)

    return jax.jit(feature_batch, out_shardings=parallel.replicated(mesh))


def extract(
    feature_batch: FeatureBatch,
    params: Any,
    read: Callable[[np.ndarray], np.ndarray],
    ids: np.ndarray,
    *,
    level: int | float,
    seed: int,
    batch_size: int,
    mesh: Mesh,
    draws: Sequence[int] = (0,),
) -> Iterator[dict[str, np.ndarray]]:
    """Features averaged over the ``draws`` of noise, by their numbers: pieces {layer: (b, C)} in
    order.

    Args:
      read: (B,) positions -> (B, H, W, C) uint8 images.
      ids: (N,) int, the images' numbers, of which their noise is a function.
    """
    seed, level = jnp.uint32(seed), jnp.asarray(level)
    queued: deque[tuple[list[dict[str, Array]], int]] = deque()

    def landed() -> dict[str, np.ndarray]:
        results, count = queued.popleft()
        if len(results) == 1:
            return {layer: np.asarray(feature)[:count] for layer, feature in results[0].items()}
        return {layer: np.mean([r[layer] for r in results], axis=0)[:count] for layer in results[0]}

    for rows, count in parallel.batches(len(ids), batch_size, mesh):
        images, numbers = parallel.place(mesh, read(rows), ids[rows].astype(np.int32))
        results = [
            feature_batch(params, seed, images, numbers, level, jnp.uint32(draw)) for draw in draws
        ]
        queued.append((results, count))
        if len(queued) > 1:  # one batch is under way while the one before is read
            yield landed()
    while queued:
        yield landed()


def views(
    features: Features,
    params: Any,
    read: Callable[[np.ndarray], np.ndarray],
    ids: np.ndarray,
    *,
    pad: int,
    flip: bool,
    mesh: Mesh,
    **how: Any,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Features {layer: two of (N, C)} of two views of each image, which differ in noise, crop and
    mirror.

    Arguments are those of ``make_feature_batch`` and of ``extract``.
    """
    compiled = make_feature_batch(features, mesh, pad=pad, flip=flip)
    found = [
        list(extract(compiled, params, read, ids, draws=(i,), mesh=mesh, **how)) for i in range(2)
    ]
    return {
        layer: tuple(np.concatenate([piece[layer] for piece in view]) for view in found)
        for layer in found[0][0]
    }
