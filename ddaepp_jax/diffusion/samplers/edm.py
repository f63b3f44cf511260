"""The sampler of EDM (arXiv 2206.00364)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ddaepp_jax.diffusion.edm import EDM
from ddaepp_jax.diffusion.noise import step_noise
from ddaepp_jax.diffusion.process import Denoiser
from ddaepp_jax.diffusion.samplers.parts import check_not_negative, estimate, float32
from ddaepp_jax.diffusion.samplers.registry import register


@register(EDM)
def heun(
    process: EDM,
    denoiser: Denoiser,
    x: Array,
    keys: Array,
    steps: int,
    clip: bool = True,
    s_churn: float = 0.0,
    s_min: float = 0.01,
    s_max: float = 1.0,
    s_noise: float = 1.007,
) -> Array:
    """Samples by EDM's second-order method (algorithm 2): 2 * steps - 1 evaluations.

    Args:
      s_churn: strength of the noise that a step adds and then removes: sigma is raised by the part
        min(s_churn / steps, sqrt(2) - 1) of itself. With 0 the method is deterministic; EDM takes
        30 for CIFAR-10, with the other defaults (table 5).
      s_min, s_max: range of sigma in which noise is added.
      s_noise: standard deviation of that noise.
    """
    check_not_negative(s_churn=s_churn, s_min=s_min, s_max=s_max, s_noise=s_noise)
    sigmas = process.grid(steps)
    now, after = sigmas[:-1], sigmas[1:]
    in_range = (s_min <= now) & (now <= s_max)
    gamma = np.where(in_range, min(s_churn / steps, np.sqrt(2) - 1), 0)
    raised = now * (1 + gamma)
    added = s_noise * np.sqrt(raised**2 - now**2)

    def slope(x, sigma):
        return (x - estimate(denoiser, x, sigma, clip)) / sigma

    def step(x, grid):
        number, sigma, after, added = grid
        if gamma.any():
            x = x + added * step_noise(keys, number, x.shape[1:])
        first = slope(x, sigma)
        euler = x + (after - sigma) * first
        corrected = lambda: x + (after - sigma) * (first + slope(euler, after)) / 2
        return jax.lax.cond(after > 0, corrected, lambda: euler), None

    grid = (jnp.arange(steps, dtype=jnp.int32), *float32(raised, after, added))
    return jax.lax.scan(step, x * float(sigmas[0]), grid)[0]
