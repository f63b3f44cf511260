"""Images from a network: image i is a function of (seed, i) and its label, whatever the batch and
the devices.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh

from ddaepp_jax.base import parallel
from ddaepp_jax.data.augment import to_uint8
from ddaepp_jax.diffusion.guidance import Guidance
from ddaepp_jax.diffusion.noise import image_keys, image_noise
from ddaepp_jax.diffusion.process import Denoiser, Process

SampleBatch = Callable[[Any, Any, int, Array, Array | None], Array]


def make_sample_batch(
    network: nn.Module,
    process: Process,
    sampler: Callable[..., Array],
    *,
    image_shape: tuple[int, int, int],
    steps: int,
    guidance: Guidance,
    mesh: Mesh,
    guide: tuple[nn.Module, Process] | None = None,
    finish: Callable[[Array], Array] = to_uint8,
) -> SampleBatch:
    """Compile-once function ``(params, guide's params or None, seed, ids (B,), labels (B,) or None)
    -> images``.

    Images are (B, H, W, C) uint8, or what ``finish`` makes of the sampler's float32.

    Args:
      guide: the worse network of autoguidance, and its process, whose levels are those of
        ``process``.
    """

    def sample_batch(
        params: Any, guide_params: Any, seed: Array, ids: Array, labels: Array | None
    ) -> Array:
        keys = image_keys(seed, "sample", ids)
        noise = jax.lax.with_sharding_constraint(
            image_noise(keys, image_shape), parallel.split(mesh)
        )
        main = partial(_denoiser, network, process, params)
        worse = None if guide is None else partial(_denoiser, *guide, guide_params)
        return finish(sampler(process, guidance.denoiser(main, labels, worse), noise, keys, steps))

    return jax.jit(sample_batch, out_shardings=parallel.replicated(mesh))


def _denoiser(network: nn.Module, process: Process, params: Any, labels: Array | None) -> Denoiser:
    def apply(x: Array, t: Array) -> Array:
        out, _ = network.apply({"params": params}, x, t, labels, capture=())
        return out[
            ..., : x.shape[-1]
        ]  # DiT can have as many channels again for a variance, which no sampler reads

    return lambda x_t, level: process.denoised(apply, x_t, level)


def sample_images(
    sample_batch: SampleBatch,
    params: Any,
    seed: int,
    ids: np.ndarray,
    labels: np.ndarray | None,
    batch_size: int,
    mesh: Mesh,
    guide_params: Any = None,
) -> Iterator[np.ndarray]:
    """The images of ``ids`` (N,), with ``labels`` (N,) or None, as pieces (b, H, W, C) in order."""
    seed = jnp.uint32(seed)
    for rows, count in parallel.batches(len(ids), batch_size, mesh):
        (placed,) = parallel.place(mesh, ids[rows].astype(np.int32))
        given = None if labels is None else parallel.place(mesh, labels[rows].astype(np.int32))[0]
        yield np.asarray(sample_batch(params, guide_params, seed, placed, given))[:count]
