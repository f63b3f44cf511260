"""Exponential moving averages of the parameters."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def init(params: Any, decays: Sequence[float]) -> dict[str, Any]:
    """One average a decay, named by it ("0.9999"); each starts as a copy."""
    return {str(decay): jax.tree.map(jnp.copy, params) for decay in decays}


def decay_at(decay: float, step: Array, ramp: bool) -> Array:
    """The decay of the n-th update, n = 0, 1, ..; ramped, min(decay, 1 - (1 + n)^(-2/3)) (DDAE's).

    The ramp makes the first updates forget the initialisation, which a short run's average would otherwise remain.
    """
    ramped = 1 - (1 + step.astype(jnp.float32)) ** (-2 / 3)
    return jnp.minimum(decay, ramped) if ramp else jnp.float32(decay)


def update(averages: dict[str, Any], params: Any, step: Array, ramp: bool) -> dict[str, Any]:
    """All averages moved towards ``params``: a <- d a + (1 - d) p."""

    def move(name: str, average: Any) -> Any:
        d = decay_at(float(name), step, ramp)
        return jax.tree.map(lambda a, p: d * a + (1 - d) * p, average, params)

    return {name: move(name, average) for name, average in averages.items()}
