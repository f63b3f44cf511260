"""Samplers of the variance-preserving processes: DDIM, DDPM's ancestral steps, DPM-Solver++."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ddaepp_jax.base.choice import choose
from ddaepp_jax.diffusion.noise import step_noise
from ddaepp_jax.diffusion.process import Denoiser
from ddaepp_jax.diffusion.samplers import grids
from ddaepp_jax.diffusion.samplers.parts import estimate, float32
from ddaepp_jax.diffusion.samplers.registry import register
from ddaepp_jax.diffusion.vp import VariancePreserving


def _table(process: VariancePreserving, table: str) -> np.ndarray | None:
    """Returns the alpha_bar by level of a table; None stands for the process's own."""
    tables = {"standard": None}
    if hasattr(process, "ddae_alpha_bar"):
        tables["ddae"] = process.ddae_alpha_bar
    return choose("table", table, tables)


@register(VariancePreserving)
def ddim(
    process: VariancePreserving,
    denoiser: Denoiser,
    x: Array,
    keys: Array,
    steps: int,
    clip: bool = True,
    table: str = "standard",
    grid: str = "time",
) -> Array:
    """Samples deterministically by DDIM (arXiv 2010.02502, eq. 12 with sigma = 0).

    Args:
      table: "standard", the process's own alpha_bar, or "ddae", DDAE's (``DDPM.ddae_alpha_bar``).
      grid: a key of ``grids.GRIDS``.
    """
    del keys
    other = _table(process, table)
    levels = grids.levels(process, grid, steps)
    own = process.alpha_bar_at(levels)
    alpha_bar = own if other is None else other[levels]
    trained = float32(np.sqrt(own), np.sqrt(1 - own))
    signal, sigma = float32(np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar))

    def step(x, coefficients):
        level, (signal_d, sigma_d), signal_t, sigma_t, signal_s, sigma_s = coefficients
        x0 = denoiser(x, jnp.full(x.shape[:1], level))
        if other is not None:
            # The denoiser computes x0_hat by the process's alpha_bar; we need the table's.
            x0 = (x - sigma_t * (x - signal_d * x0) / sigma_d) / signal_t
        x0 = jnp.clip(x0, -1, 1) if clip else x0
        epsilon = (x - signal_t * x0) / sigma_t
        return signal_s * x0 + sigma_s * epsilon, None

    now = slice(None, -1)
    trained = tuple(coefficient[now] for coefficient in trained)
    along = (jnp.asarray(levels)[now], trained, signal[now], sigma[now], signal[1:], sigma[1:])
    return jax.lax.scan(step, x, along)[0]


@register(VariancePreserving)
def ddpm(
    process: VariancePreserving,
    denoiser: Denoiser,
    x: Array,
    keys: Array,
    steps: int,
    clip: bool = True,
    grid: str = "time",
) -> Array:
    """Samples by ancestral steps (arXiv 2006.11239, algorithm 2, variance beta_t), on any grid.

    On a subset of the steps, beta is that of the longer step: 1 - alpha_bar_t / alpha_bar_s.

    Args:
      grid: a key of ``grids.GRIDS``.
    """
    levels = grids.levels(process, grid, steps)
    alpha_bar = process.alpha_bar_at(levels)
    alpha_bar_t, alpha_bar_s = alpha_bar[:-1], alpha_bar[1:]
    beta = 1 - alpha_bar_t / alpha_bar_s
    # The posterior mean of x_s given x_t and x_0 (eq. 7); the last step, to s = 0, adds no noise.
    from_x0 = np.sqrt(alpha_bar_s) * beta / (1 - alpha_bar_t)
    from_x = np.sqrt(alpha_bar_t / alpha_bar_s) * (1 - alpha_bar_s) / (1 - alpha_bar_t)
    std = np.where(levels[1:] > 0, np.sqrt(beta), 0)

    def step(x, coefficients):
        number, level, from_x0, from_x, std = coefficients
        x0 = estimate(denoiser, x, level, clip)
        return from_x0 * x0 + from_x * x + std * step_noise(keys, number, x.shape[1:]), None

    along = (
        jnp.arange(steps, dtype=jnp.int32),
        jnp.asarray(levels[:-1]),
        *float32(from_x0, from_x, std),
    )
    return jax.lax.scan(step, x, along)[0]


@register(VariancePreserving)
def dpmpp_2m(
    process: VariancePreserving,
    denoiser: Denoiser,
    x: Array,
    keys: Array,
    steps: int,
    clip: bool = True,
    grid: str = "log-snr",
) -> Array:
    """Samples by DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2): deterministic, second order.

    A step evaluates the denoiser once. The first step, and the last, to the clean image, are
    DDIM's, of first order. On a grid that is even in time, the last steps are so long in lambda
    that 20 steps are off by a quarter where the data's deviation is small.

    Args:
      grid: a key of ``grids.GRIDS``.
    """
    del keys
    levels = grids.levels(process, grid, steps)
    alpha_bar = process.alpha_bar_at(levels)
    signal, sigma = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    # With lambda = log(signal / sigma) and h its step, x_s = from_x x_t + from_d D:
    # from_x = sigma_s / sigma_t, from_d = -signal_s (exp(-h) - 1).
    from_x = sigma[1:] / sigma[:-1]
    from_d = signal[1:] - from_x * signal[:-1]
    h = np.diff(np.log(signal[:-1] / sigma[:-1]))
    # 1 / (2 r_i) with r_i = h_(i-1) / h_i: how far D lies beyond the newest estimate.
    ahead = np.zeros(steps)
    ahead[1:-1] = h[1:] / (2 * h[:-1])

    def step(carry, coefficients):
        x, before = carry
        level, from_x, from_d, ahead = coefficients
        x0 = estimate(denoiser, x, level, clip)
        return (from_x * x + from_d * (x0 + ahead * (x0 - before)), x0), None

    along = (jnp.asarray(levels[:-1]), *float32(from_x, from_d, ahead))
    return jax.lax.scan(step, (x, jnp.zeros_like(x)), along)[0][0]
