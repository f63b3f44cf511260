"""Samplers: functions of a denoiser ``(x_t, level) -> x0_hat``, each one ``lax.scan`` over a fixed grid of levels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.diffusion.noise import step_noise

Denoiser = Callable[[Array, Array], Array]


def vp_times(num_steps: int, steps: int) -> np.ndarray:
    """(steps + 1,) int32, falling: .., 1 + 2T/steps, 1 + T/steps, 1, 0, rounded down to whole steps."""
    return np.append(1 + np.arange(steps)[::-1] * num_steps // steps, 0).astype(np.int32)


def _vp_grid(process: DDPM, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The falling times of a sampler and their alpha_bar (float64), both (steps + 1,)."""
    if not 1 <= steps <= process.num_steps:
        raise ValueError(f"steps: {steps} is not in 1..{process.num_steps}, the process's number of time steps")
    times = vp_times(process.num_steps, steps)
    alpha_bar = process.alpha_bar[times]
    return times, alpha_bar


def ddim(process: DDPM, denoiser: Denoiser, x: Array, keys: Array, steps: int, clip: bool = True) -> Array:
    """Deterministic DDIM (arXiv 2010.02502, eq. 12 with sigma = 0).

    Args:
      process: gives alpha_bar.
      x: (B, H, W, C) start noise, standard normal.
      keys: not used: part of the samplers' common signature.
      steps: evaluations of the denoiser, 1..T.
      clip: clip x0_hat to the data's range [-1, 1] at every step.

    Returns:
      (B, H, W, C) float32 images, data range [-1, 1].
    """
    del keys
    times, alpha_bar = _vp_grid(process, steps)
    signal, sigma = (jnp.asarray(np.sqrt(a), jnp.float32) for a in (alpha_bar, 1 - alpha_bar))

    def step(x, grid):
        t, signal_t, sigma_t, signal_s, sigma_s = grid
        x0 = denoiser(x, jnp.full(x.shape[:1], t))
        x0 = jnp.clip(x0, -1, 1) if clip else x0
        epsilon = (x - signal_t * x0) / sigma_t
        return signal_s * x0 + sigma_s * epsilon, None

    return jax.lax.scan(step, x, (jnp.asarray(times[:-1]), signal[:-1], sigma[:-1], signal[1:], sigma[1:]))[0]


def ddpm(process: DDPM, denoiser: Denoiser, x: Array, keys: Array, steps: int, clip: bool = True) -> Array:
    """Ancestral sampling (arXiv 2006.11239, algorithm 2, variance beta_t), on any subset of the time steps.

    As ``ddim``, and ``keys`` (B,) are the images' own: image i's noise at a step is a function of its key alone. On a
    subset, beta is that of the longer step, 1 - alpha_bar_t / alpha_bar_s.
    """
    times, alpha_bar = _vp_grid(process, steps)
    alpha_bar_t, alpha_bar_s = alpha_bar[:-1], alpha_bar[1:]
    beta = 1 - alpha_bar_t / alpha_bar_s
    # The posterior mean of x_s given x_t and x_0 (eq. 7); the last step, to s = 0, adds no noise.
    from_x0 = np.sqrt(alpha_bar_s) * beta / (1 - alpha_bar_t)
    from_x = np.sqrt(alpha_bar_t / alpha_bar_s) * (1 - alpha_bar_s) / (1 - alpha_bar_t)
    std = np.sqrt(beta) * (times[1:] > 0)

    def step(x, grid):
        t, from_x0, from_x, std = grid
        x0 = denoiser(x, jnp.full(x.shape[:1], t))
        x0 = jnp.clip(x0, -1, 1) if clip else x0
        return from_x0 * x0 + from_x * x + std * step_noise(keys, t, x.shape[1:]), None

    grid = (jnp.asarray(times[:-1]), *(jnp.asarray(a, jnp.float32) for a in (from_x0, from_x, std)))
    return jax.lax.scan(step, x, grid)[0]
