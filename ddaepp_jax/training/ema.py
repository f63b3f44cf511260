"""Averages of the parameters: exponential ones, and ones whose profile is a power of time (EDM2,
arXiv 2312.02696).
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

POWER = "sigma_rel"  # what the name of a power-function average starts with
WIDTHS = (
    0.001,
    12**-0.5,
)  # of a power-function average: [narrowest, that of the plain mean of all steps)


def init(
    params: Any,
    decays: Sequence[float],
    sigma_rels: Sequence[float] = (),
    teachers: Sequence[str] = (),
) -> dict[str, Any]:
    """An average a decay ("0.9999"), a relative width ("sigma_rel0.05") and a teacher; each starts
    as a copy.
    """
    names = [*map(str, decays), *map(power_name, sigma_rels), *teachers]
    return {name: jax.tree.map(jnp.copy, params) for name in names}


def power_name(sigma_rel: float) -> str:
    """The name of a power-function average in the state."""
    return f"{POWER}{float(sigma_rel)}"


def decay_at(decay: float, step: Array, ramp: bool) -> Array:
    """The decay of the n-th update, n = 0, 1, ..; ramped, min(decay, 1 - (1 + n)^(-2/3)) (DDAE's).

    The ramp makes the first updates forget the initialisation, which a short run's average would
    otherwise remain.
    """
    ramped = 1 - (1 + step.astype(jnp.float32)) ** (-2 / 3)
    return jnp.minimum(decay, ramped) if ramp else jnp.float32(decay)


def width(gamma: Any) -> Any:
    """sigma_rel of the profile tau^gamma on [0, t]: its standard deviation over t, at gamma >= 0 at
    most 1/sqrt(12).

    Section 3.1, and eq. 123 as the authors' code numbers it. Floats or float64 arrays.
    """
    return np.sqrt(gamma + 1) / ((gamma + 2) * np.sqrt(gamma + 3))


def exponent(sigma_rel: Any) -> Any:
    """The gamma of a relative width in ``WIDTHS``, inverse of ``width``. Floats or float64 arrays.

    With x = gamma + 2 and s = sigma_rel^-2, eq. 123 is x^3 + x^2 - s x + s = 0; of its three real
    roots the largest has gamma >= 0, and Viete's formula gives it.
    """
    s = np.asarray(sigma_rel, np.float64) ** -2
    p, q = (s + 1 / 3) / 3, 2 * s / 3 + 1 / 27  # with u = x + 1/3: u^3 - 3 p u + 2 q = 0
    return 2 * np.sqrt(p) * np.cos(np.arccos(-q / p**1.5) / 3) - 7 / 3


def power_rate(sigma_rel: float, step: Array) -> Array:
    """1 - beta of the n-th update, n = 0, 1, ..: beta = (1 - 1/t)^(gamma + 1) at t = n + 1 (section
    3.1; eq. 127).

    So update tau weighs (tau^(gamma + 1) - (tau - 1)^(gamma + 1)) / t^(gamma + 1) after t updates,
    which is the profile (gamma + 1) tau^gamma / t^(gamma + 1) integrated over its step; the
    initialisation weighs nothing. Late in a run beta rounds to 1 in float32, 1 - beta does not.
    """
    t = (step + 1).astype(jnp.float32)
    return -jnp.expm1(float(exponent(sigma_rel) + 1) * jnp.log1p(-1 / t))


def update(
    averages: dict[str, Any],
    params: Any,
    step: Array,
    ramp: bool,
    teachers: Mapping[str, optax.Schedule] = MappingProxyType({}),
) -> dict[str, Any]:
    """All averages moved towards ``params``: a <- d a + (1 - d) p, with d a decay, a teacher's of
    this step, beta.
    """

    def move(name: str, average: Any) -> Any:
        if name.startswith(POWER):
            rate = power_rate(float(name.removeprefix(POWER)), step)
            return jax.tree.map(lambda a, p: a + rate * (p - a), average, params)
        d = teachers[name](step) if name in teachers else decay_at(float(name), step, ramp)
        return jax.tree.map(lambda a, p: d * a + (1 - d) * p, average, params)

    return {name: move(name, average) for name, average in averages.items()}
