"""Samplers of flows. Time rises from 0, the noise, to 1, the data.

Each takes ``shift``, which moves the grid's even times to t' = shift t / (1 + (shift - 1) t). Below
1 it shortens the steps near the noise (LightningDiT's 0.3), above 1 those near the data.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ddaepp_jax.diffusion.flow import Flow
from ddaepp_jax.diffusion.noise import step_noise
from ddaepp_jax.diffusion.process import Denoiser
from ddaepp_jax.diffusion.samplers.parts import check_not_negative, estimate, float32
from ddaepp_jax.diffusion.samplers.registry import register


def _times(process: Flow, steps: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns (steps,) float64 times before each step, and after it."""
    if not 0 < shift < float("inf"):
        raise ValueError(f"shift: {shift} is not a positive number; 1 makes even steps")
    even = process.grid(steps)
    shifted = shift * even / (1 - even + shift * even)  # In this form, 1 stays 1 to the last bit.
    return shifted[:-1], shifted[1:]


@register(Flow)
def euler(
    process: Flow,
    denoiser: Denoiser,
    x: Array,
    keys: Array,
    steps: int,
    clip: bool = True,
    shift: float = 1.0,
) -> Array:
    """Samples by Euler's method for dx = v dt with v = (x0_hat - x) / (1 - t)."""
    del keys
    now, after = _times(process, steps, shift)
    # A step goes this part of the way to x0_hat, and the last one all of it, so that nothing is
    # divided by 1 - t = 0.
    part = (after - now) / (1 - now)

    def step(x, grid):
        t, part = grid
        return x + part * (estimate(denoiser, x, t, clip) - x), None

    return jax.lax.scan(step, x, float32(now, part))[0]


@register(Flow)
def heun_flow(
    process: Flow,
    denoiser: Denoiser,
    x: Array,
    keys: Array,
    steps: int,
    clip: bool = True,
    shift: float = 1.0,
) -> Array:
    """Samples by Heun's second-order method for the same equation: 2 * steps - 1 evaluations.

    The last step is Euler's, because x0_hat gives no velocity at t = 1.
    """
    del keys
    now, after = _times(process, steps, shift)

    def velocity(x, t):
        return (estimate(denoiser, x, t, clip) - x) / (1 - t)

    def step(x, grid):
        t, after, length = grid
        first = velocity(x, t)
        euler = x + length * first
        corrected = lambda: x + length * (first + velocity(euler, after)) / 2
        return jax.lax.cond(after < 1, corrected, lambda: euler), None

    return jax.lax.scan(step, x, float32(now, after, after - now))[0]


@register(Flow)
def euler_maruyama(
    process: Flow,
    denoiser: Denoiser,
    x: Array,
    keys: Array,
    steps: int,
    clip: bool = True,
    shift: float = 1.0,
    diffusion: float = 1.0,
) -> Array:
    """Samples SiT's SDE (arXiv 2401.08740), with time towards the data.

    dx = (v + w s) dt + sqrt(2 w) dW, where s = (t v - x) / (1 - t) is the score, and
    w = diffusion (1 - t) is half of the paper's w_t. The last step is the ODE's, without noise, and
    ends at x0_hat.

    Args:
      diffusion: strength of the noise, and of the score that takes it away; 0 gives the ODE.
    """
    check_not_negative(diffusion=diffusion)
    now, after = _times(process, steps, shift)
    length = after - now
    diffusion = np.where(after < 1, diffusion, 0.0)
    std = np.sqrt(2 * diffusion * (1 - now) * length)

    def step(x, grid):
        number, t, length, part, diffusion, std = grid
        flow = part * (estimate(denoiser, x, t, clip) - x)  # v dt
        score = diffusion * (t * flow - length * x)  # w s dt
        return x + flow + score + std * step_noise(keys, number, x.shape[1:]), None

    grid = (
        jnp.arange(steps, dtype=jnp.int32),
        *float32(now, length, length / (1 - now), diffusion, std),
    )
    return jax.lax.scan(step, x, grid)[0]
