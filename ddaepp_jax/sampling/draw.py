"""Samples images from a network; image i is a function of (seed, i) and its label.

Neither the batch size nor the devices change an image.
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
from tqdm import tqdm

from ddaepp_jax.base import parallel
from ddaepp_jax.data.augment import to_uint8
from ddaepp_jax.diffusion.noise import image_keys, image_noise
from ddaepp_jax.diffusion.process import Denoiser, Process
from ddaepp_jax.sampling.settings import Sampling

SampleBatch = Callable[[Any, Any, Array, Array, Array | None], tuple[Array, Array]]


def unchanged(latents: Array) -> Array:
    """Returns latents as they are, where ``to_uint8`` would convert images."""
    return latents


def make_sample_batch(
    network: nn.Module,
    process: Process,
    sampling: Sampling,
    *,
    image_shape: tuple[int, int, int],
    mesh: Mesh,
    guide: tuple[nn.Module, Process] | None = None,
    finish: Callable[[Array], Array] = to_uint8,
) -> SampleBatch:
    """Returns ``(params, guide_params, seed, ids, labels) -> (images, finite)``, compiled once.

    ``ids`` and ``labels`` are (B,) int; ``labels`` and ``guide_params`` may be None. Images are
    (B, H, W, C) uint8; ``finite`` (B,) bool tells whether the sampler's numbers of each were.

    Args:
      network: the denoising network.
      process: its diffusion process.
      sampling: the sampler and its guidance.
      image_shape: (H, W, C).
      mesh: the devices.
      guide: the worse network of autoguidance and its process, which has the noise levels of
        ``process``.
      finish: converts the sampler's float32 images in [-1, 1].

    Raises:
      InputError: a field of ``sampling`` is wrong.
    """
    sampler, guidance = sampling.make(process, image_shape)

    def sample_batch(
        params: Any, guide_params: Any, seed: Array, ids: Array, labels: Array | None
    ) -> tuple[Array, Array]:
        keys = image_keys(seed, "sample", ids)
        noise = image_noise(keys, image_shape)
        noise = jax.lax.with_sharding_constraint(noise, parallel.split(mesh))
        main = partial(denoiser_of, network, process, params)
        worse = None if guide is None else partial(denoiser_of, *guide, guide_params)
        images = sampler(guidance.denoiser(main, labels, worse), noise, keys)
        return finish(images), jnp.isfinite(images).all((1, 2, 3))

    return jax.jit(sample_batch, out_shardings=parallel.replicated(mesh))


def denoiser_of(
    network: nn.Module, process: Process, params: Any, labels: Array | None
) -> Denoiser:
    """Returns the denoiser of a network with ``labels`` (B,), or without."""

    def apply(x: Array, t: Array) -> Array:
        out, _ = network.apply({"params": params}, x, t, labels, capture=())
        # A DiT may output a variance in as many channels again, which no sampler reads.
        return out[..., : x.shape[-1]]

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
) -> Iterator[tuple[np.ndarray, str]]:
    """Samples the images ``ids`` (N,) with ``labels`` (N,) or None.

    Yields:
      Pieces (b, H, W, C) in the order of ``ids``, each with a line that says how many of its images
      came out NaN or infinite, which no colour stands for; "" if none did.
    """
    seed = jnp.uint32(seed)
    for rows, count in parallel.batches(len(ids), batch_size, mesh):
        (batch_ids,) = parallel.place(mesh, ids[rows].astype(np.int32))
        batch_labels = None
        if labels is not None:
            (batch_labels,) = parallel.place(mesh, labels[rows].astype(np.int32))
        images, finite = sample_batch(params, guide_params, seed, batch_ids, batch_labels)
        wrong = count - int(np.asarray(finite)[:count].sum())
        yield np.asarray(images)[:count], _line(wrong, count) if wrong else ""


def _line(wrong: int, count: int) -> str:
    return (
        f"sampling: {wrong} of {count} images came out NaN or infinite; lower the guidance, take "
        "another sampler or more steps, or a checkpoint with good weights"
    )


def make_draw(
    network: nn.Module,
    process: Process,
    sampling: Sampling,
    *,
    image_shape: tuple[int, int, int],
    mesh: Mesh,
    decode: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Callable[[Any, int, np.ndarray], Iterator[np.ndarray]]:
    """Returns ``(params, seed, ids (N,)) -> iterator of (b, H, W, C) uint8``, compiled once.

    If the network takes labels, image i has the class ``i % num_classes``. A training goes on
    where images are not finite, with a warning. ``decode`` turns latents into images.
    """
    sample_batch = make_sample_batch(
        network,
        process,
        sampling,
        image_shape=image_shape,
        mesh=mesh,
        finish=to_uint8 if decode is None else unchanged,
    )

    def draw(params: Any, seed: int, ids: np.ndarray) -> Iterator[np.ndarray]:
        labels = ids % network.num_classes if network.num_classes else None
        size = sampling.batch_size
        for piece, line in sample_images(sample_batch, params, seed, ids, labels, size, mesh):
            if line:
                tqdm.write(f"warning: {line}")
            yield piece if decode is None else decode(piece)

    return draw
