"""Samplers: functions of a denoiser ``(x_t, level) -> x0_hat``, each one ``lax.scan`` over a fixed
grid of levels.

Here are those of the variance-preserving processes and of EDM; ``flow_samplers`` has those of
flows. All take ``(process, denoiser, x, keys, steps, clip)`` and options of their own:

  process: gives the grid; see ``ddaepp_jax.diffusion.process``.
  x: (B, H, W, C) start noise, standard normal.
  keys: (B,) the images' own: image i's noise at a step is a function of its key and the step's
    number alone.
  steps: of the grid.
  clip: clip x0_hat to the data's range [-1, 1] at every evaluation.

and return (B, H, W, C) float32 images, data range [-1, 1].
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ddaepp_jax.diffusion.edm import EDM
from ddaepp_jax.diffusion.noise import step_noise
from ddaepp_jax.diffusion.process import Denoiser
from ddaepp_jax.diffusion.vp import VariancePreserving


def estimate(denoiser: Denoiser, x: Array, level: Array, clip: bool) -> Array:
    """x0_hat where all images are at one level."""
    x0 = denoiser(x, jnp.full(x.shape[:1], level))
    return jnp.clip(x0, -1, 1) if clip else x0


def float32(*arrays: np.ndarray) -> tuple[Array, ...]:
    """A grid's numbers, computed in float64, as a scan takes them."""
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)


def ddim(
    process: VariancePreserving,
    denoiser: Denoiser,
    x: Array,
    keys: Array,
    steps: int,
    clip: bool = True,
    table: np.ndarray | None = None,
) -> Array:
    """Deterministic DDIM (arXiv 2010.02502, eq. 12 with sigma = 0).

    Args:
      table: alpha_bar by level, to sample with instead of the process's own (DDAE's:
        ``DDPM.ddae_alpha_bar``).
    """
    del keys
    levels = process.grid(steps)
    own = process.alpha_bar_at(levels)
    alpha_bar = own if table is None else table[levels]
    trained = float32(np.sqrt(own), np.sqrt(1 - own))
    signal, sigma = float32(np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar))

    def step(x, grid):
        level, (signal_d, sigma_d), signal_t, sigma_t, signal_s, sigma_s = grid
        x0 = denoiser(x, jnp.full(x.shape[:1], level))
        if (
            table is not None
            # the denoiser's x0_hat is its epsilon by the process's alpha_bar; ours is by the table's
        ):
            x0 = (x - sigma_t * (x - signal_d * x0) / sigma_d) / signal_t
        x0 = jnp.clip(x0, -1, 1) if clip else x0
        epsilon = (x - signal_t * x0) / sigma_t
        return signal_s * x0 + sigma_s * epsilon, None

    now, trained = slice(None, -1), tuple(c[:-1] for c in trained)
    grid = (jnp.asarray(levels)[now], trained, signal[now], sigma[now], signal[1:], sigma[1:])
    return jax.lax.scan(step, x, grid)[0]


def ddpm(
    process: VariancePreserving,
    denoiser: Denoiser,
    x: Array,
    keys: Array,
    steps: int,
    clip: bool = True,
) -> Array:
    """Ancestral sampling (arXiv 2006.11239, algorithm 2, variance beta_t), on any grid.

    On a subset of the steps, beta is that of the longer step, 1 - alpha_bar_t / alpha_bar_s.
    """
    levels = process.grid(steps)
    alpha_bar = process.alpha_bar_at(levels)
    alpha_bar_t, alpha_bar_s = alpha_bar[:-1], alpha_bar[1:]
    beta = 1 - alpha_bar_t / alpha_bar_s
    # The posterior mean of x_s given x_t and x_0 (eq. 7); the last step, to s = 0, adds no noise.
    from_x0 = np.sqrt(alpha_bar_s) * beta / (1 - alpha_bar_t)
    from_x = np.sqrt(alpha_bar_t / alpha_bar_s) * (1 - alpha_bar_s) / (1 - alpha_bar_t)
    std = np.sqrt(beta) * (levels[1:] > 0)

    def step(x, grid):
        number, level, from_x0, from_x, std = grid
        x0 = estimate(denoiser, x, level, clip)
        return from_x0 * x0 + from_x * x + std * step_noise(keys, number, x.shape[1:]), None

    grid = (jnp.arange(steps), jnp.asarray(levels[:-1]), *float32(from_x0, from_x, std))
    return jax.lax.scan(step, x, grid)[0]


def dpmpp_2m(
    process: VariancePreserving,
    denoiser: Denoiser,
    x: Array,
    keys: Array,
    steps: int,
    clip: bool = True,
) -> Array:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2): deterministic, of second order, one
    evaluation a step.

    The first step and the last, to the clean image, are of first order, DDIM's.
    """
    del keys
    levels = process.grid(steps)
    alpha_bar = process.alpha_bar_at(levels)
    signal, sigma = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    # lambda is the logarithm of signal / sigma; of x_s: sigma_s / sigma_t, and -signal_s (exp(-h) -
    # 1) on D.
    from_x = sigma[1:] / sigma[:-1]
    from_d = signal[1:] - from_x * signal[:-1]
    h = np.diff(np.log(signal[:-1] / sigma[:-1]))
    ahead = np.zeros(
        steps
    )  # 1 / (2 r_i), with r_i = h_(i-1) / h_i: how far D lies beyond the newest estimate
    ahead[1:-1] = h[1:] / (2 * h[:-1])

    def step(carry, grid):
        x, before = carry
        level, from_x, from_d, ahead = grid
        x0 = estimate(denoiser, x, level, clip)
        return (from_x * x + from_d * (x0 + ahead * (x0 - before)), x0), None

    grid = (jnp.asarray(levels[:-1]), *float32(from_x, from_d, ahead))
    return jax.lax.scan(step, (x, jnp.zeros_like(x)), grid)[0][0]


def heun(
    process: EDM,
    denoiser: Denoiser,
    x: Array,
    keys: Array,
    steps: int,
    clip: bool = True,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = float("inf"),
    s_noise: float = 1.0,
) -> Array:
    """EDM's second-order sampler (arXiv 2206.00364, algorithm 2): 2 * steps - 1 evaluations of the
    denoiser.

    Args:
      s_churn: noise added at a step, then removed: sigma is raised by min(s_churn / steps, sqrt(2)
        - 1) of itself where it lies in [s_min, s_max]. 0: deterministic.
      s_noise: standard deviation of that noise.
    """
    sigmas = process.grid(steps)
    now, after = sigmas[:-1], sigmas[1:]
    gamma = np.where((s_min <= now) & (now <= s_max), min(s_churn / steps, np.sqrt(2) - 1), 0)
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

    return jax.lax.scan(step, x * sigmas[0], (jnp.arange(steps), *float32(raised, after, added)))[0]
