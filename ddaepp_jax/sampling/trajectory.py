"""The estimates of the clean image along a sampling."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from ddaepp_jax.diffusion import samplers
from ddaepp_jax.diffusion.noise import image_keys, image_noise
from ddaepp_jax.diffusion.process import Process
from ddaepp_jax.sampling.draw import denoiser_of
from ddaepp_jax.sampling.settings import Sampling

Trained = tuple[nn.Module, Process, Any]  # a network, its process and its parameters


def trajectory(
    trained: Trained,
    image_shape: tuple[int, int, int],
    sampling: Sampling,
    seed: int,
    ids: np.ndarray,
    labels: np.ndarray | None,
    guide: Trained | None,
) -> tuple[np.ndarray, Array]:
    """Samples the images ``ids`` (B,) at once, and records each estimate of the clean image.

    Args:
      trained: the denoising network.
      image_shape: (H, W, C).
      sampling: the sampler and its guidance.
      seed: seed of the start noise.
      ids: (B,) int, the images' numbers.
      labels: (B,) int, or None.
      guide: the worse network of autoguidance, or None.

    Returns:
      The noise levels (E,) of the sampler's evaluations, in their order, and the guided estimates
      there, (E, B, H, W, C) float32, not clipped.

    Raises:
      InputError: a field of ``sampling`` is wrong.
    """
    network, process, params = trained
    sampler, guidance = sampling.make(process, image_shape)
    levels = samplers.levels(sampler)
    keys = image_keys(jnp.uint32(seed), "sample", jnp.asarray(ids))
    noise = image_noise(keys, image_shape)

    @jax.jit
    def estimates(params: Any, guide_params: Any, labels: Array | None) -> Array:
        main = partial(denoiser_of, network, process, params)
        worse = None if guide is None else partial(denoiser_of, *guide[:2], guide_params)
        denoiser = guidance.denoiser(main, labels, worse)
        # A sampler returns its images alone, so the denoiser itself keeps what it returns.
        kept = jax.new_ref(jnp.zeros((len(levels), *noise.shape)))
        number = jax.new_ref(jnp.int32(0))

        def keeping(x_t: Array, level: Array) -> Array:
            x0 = denoiser(x_t, level)
            kept[number[...]] = x0
            number[...] += 1
            return x0

        sampler(keeping, noise, keys)
        return kept[...]

    return levels, estimates(params, None if guide is None else guide[2], labels)
