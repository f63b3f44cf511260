"""Pooled inner features of noisy images: the representation that a denoiser learns."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh

from ddaepp_jax.data.augment import to_float
from ddaepp_jax.diffusion.noise import image_keys, image_noise
from ddaepp_jax.evaluation import placing

FeatureBatch = Callable[..., dict[str, Array]]


def pool(feature: Array) -> Array:
    """Mean over space or tokens, in float32: (B, .., C) -> (B, C)."""
    return feature.astype(jnp.float32).mean(axis=tuple(range(1, feature.ndim - 1)))


def make_feature_batch(network: nn.Module, process: Any, layers: Sequence[str], mesh: Mesh) -> FeatureBatch:
    """Compile-once function ``(params, seed, images uint8, ids, level, draw) -> {layer: (B, C) float32}``.

    Image i's noise is a function of (seed, draw, i). A network with labels is given the null class. One forward pass
    serves all ``layers``; what they don't need is pruned.
    """

    def feature_batch(
        params: Any, seed: Array, images: Array, ids: Array, level: Array, draw: Array
    ) -> dict[str, Array]:
        x0 = to_float(images)
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(image_keys(seed, "features", ids), draw)
        levels = jnp.full(ids.shape, level)
        x_t = process.perturb(x0, image_noise(keys, x0.shape[1:]), levels)
        _, features = network.apply({"params": params}, *process.inputs(x_t, levels))
        return {layer: pool(features[layer]) for layer in layers}

    return jax.jit(feature_batch, out_shardings=placing.whole(mesh))


def extract(
    feature_batch: FeatureBatch,
    params: Any,
    images: np.ndarray,
    *,
    level: int | float,
    seed: int,
    draws: int,
    batch_size: int,
    mesh: Mesh,
) -> Iterator[dict[str, np.ndarray]]:
    """Features of (N, H, W, C) uint8 images, averaged over ``draws`` of noise: pieces {layer: (b, C)} in order."""
    seed, level = jnp.uint32(seed), jnp.asarray(level)
    for rows, count in placing.batches(len(images), batch_size, mesh):
        pixels, ids = placing.place(mesh, images[rows], rows)
        results = [feature_batch(params, seed, pixels, ids, level, jnp.uint32(draw)) for draw in range(draws)]
        yield {layer: np.mean([r[layer] for r in results], axis=0)[:count] for layer in results[0]}
