"""Functions that several samplers share."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from ddaepp_jax.diffusion.process import Denoiser


def estimate(denoiser: Denoiser, x: Array, level: Array, clip: bool) -> Array:
    """Returns x0_hat (B, H, W, C) of images that are all at one noise level.

    ``clip`` clips it to [-1, 1].
    """
    x0 = denoiser(x, jnp.full(x.shape[:1], level))
    return jnp.clip(x0, -1, 1) if clip else x0


def float32(*arrays: np.ndarray) -> tuple[Array, ...]:
    """Converts the arrays of a grid from float64 to float32, for a scan."""
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)


def check_not_negative(**options: float) -> None:
    """Raises ValueError, naming the option, for a negative number."""
    for name, value in options.items():
        if not value >= 0:
            raise ValueError(f"{name}: {value} is negative")
