"""Images from a network: image i is a function of (seed, i) and its label, whatever the batch and the devices."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh

from ddaepp_jax.data.augment import to_uint8
from ddaepp_jax.diffusion.guidance import classifier_free
from ddaepp_jax.diffusion.noise import image_keys, image_noise
from ddaepp_jax.diffusion.process import Process
from ddaepp_jax.evaluation import placing

SampleBatch = Callable[[Any, int, Array, Array | None], Array]


def make_sample_batch(
    network: nn.Module,
    process: Process,
    sampler: Callable[..., Array],
    *,
    image_shape: tuple[int, int, int],
    steps: int,
    guidance: float,
    mesh: Mesh,
) -> SampleBatch:
    """Compile-once function ``(params, seed, ids (B,), labels (B,) or None) -> (B, H, W, C) uint8``."""

    def sample_batch(params: Any, seed: Array, ids: Array, labels: Array | None) -> Array:
        def denoiser(y: Array | None) -> Callable[[Array, Array], Array]:
            def apply(x: Array, t: Array) -> Array:
                return network.apply({"params": params}, x, t, y)[0]

            return lambda x_t, level: process.denoised(apply, x_t, level)

        keys = image_keys(seed, "sample", ids)
        noise = jax.lax.with_sharding_constraint(image_noise(keys, image_shape), placing.split(mesh))
        guided = denoiser(labels) if labels is None else classifier_free(denoiser(labels), denoiser(None), guidance)
        return to_uint8(sampler(process, guided, noise, keys, steps))

    return jax.jit(sample_batch, out_shardings=placing.whole(mesh))


def sample_images(
    sample_batch: SampleBatch,
    params: Any,
    seed: int,
    ids: np.ndarray,
    labels: np.ndarray | None,
    batch_size: int,
    mesh: Mesh,
) -> Iterator[np.ndarray]:
    """The images of ``ids`` (N,), with ``labels`` (N,) or None, as (b, H, W, C) uint8 pieces in order."""
    seed = jnp.uint32(seed)
    for rows, count in placing.batches(len(ids), batch_size, mesh):
        (placed,) = placing.place(mesh, ids[rows].astype(np.int32))
        given = None if labels is None else placing.place(mesh, labels[rows].astype(np.int32))[0]
        yield np.asarray(sample_batch(params, seed, placed, given))[:count]
