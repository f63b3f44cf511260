"""Averages of the parameters: exponential ones, and ones whose profile is a power of time.

Equation and section numbers are those of EDM2 (arXiv 2312.02696), which introduced the second kind.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

POWER = "sigma_rel"  # The name of a power-function average begins with it.
# Relative widths of power-function averages: from the narrowest to below the plain mean's.
WIDTHS = (0.001, 12**-0.5)


def init(
    params: Any,
    decays: Sequence[float],
    sigma_rels: Sequence[float] = (),
    teachers: Sequence[str] = (),
) -> dict[str, Any]:
    """Returns the averages of step 0, each a copy of ``params``.

    Args:
      decays: one exponential average each, named by its decay ("0.9999").
      sigma_rels: one power-function average each, named by its relative width ("sigma_rel0.05").
      teachers: names of further averages, each with a decay schedule of its own.
    """
    names = [*map(str, decays), *map(power_name, sigma_rels), *teachers]
    return {name: jax.tree.map(jnp.copy, params) for name in names}


def power_name(sigma_rel: float) -> str:
    """Returns the name that a power-function average has in the state."""
    return f"{POWER}{float(sigma_rel)}"


def decay_at(decay: float, step: Array, ramp: bool) -> Array:
    """Returns the decay of update n = ``step``, counted from 0.

    With ``ramp`` it is DDAE's, min(decay, 1 - (1 + n)^(-2/3)): the first updates then forget the
    initialisation, which a short run's average would otherwise still consist of.
    """
    ramped = 1 - (1 + step.astype(jnp.float32)) ** (-2 / 3)
    return jnp.minimum(decay, ramped) if ramp else jnp.float32(decay)


def width(gamma: Any) -> Any:
    """Returns sigma_rel of the profile tau^gamma on [0, t], its standard deviation divided by t.

    Section 3.1, and eq. 123 as the authors' code numbers it. It is at most 1/sqrt(12) at
    gamma >= 0. Takes floats or float64 arrays.
    """
    return np.sqrt(gamma + 1) / ((gamma + 2) * np.sqrt(gamma + 3))


def exponent(sigma_rel: Any) -> Any:
    """Returns the gamma of a relative width in ``WIDTHS``, the inverse of ``width``.

    With x = gamma + 2 and s = sigma_rel^-2, eq. 123 is x^3 + x^2 - s x + s = 0. Only the largest of
    its three real roots has gamma >= 0; Viete's formula gives it. Takes floats or float64 arrays.
    """
    s = np.asarray(sigma_rel, np.float64) ** -2
    p, q = (s + 1 / 3) / 3, 2 * s / 3 + 1 / 27  # With u = x + 1/3: u^3 - 3 p u + 2 q = 0.
    return 2 * np.sqrt(p) * np.cos(np.arccos(-q / p**1.5) / 3) - 7 / 3


def power_rate(sigma_rel: float, step: Array) -> Array:
    """Returns 1 - beta of update n = ``step``, counted from 0 (section 3.1; eq. 127).

    beta = (1 - 1/t)^(gamma + 1) at t = n + 1. After t updates, update tau then has the weight
    (tau^(gamma + 1) - (tau - 1)^(gamma + 1)) / t^(gamma + 1), which is the integral of the profile
    (gamma + 1) tau^gamma / t^(gamma + 1) over its step; the initialisation has the weight 0. Late
    in a run beta rounds to 1 in float32, while 1 - beta stays accurate.
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
    """Moves each average a towards ``params`` p: a <- d a + (1 - d) p.

    Args:
      step: () number of the update, from 0.
      ramp: see ``decay_at``.
      teachers: decay d of each teacher by the number of the update.
    """

    def move(name: str, average: Any) -> Any:
        if name.startswith(POWER):
            rate = power_rate(float(name.removeprefix(POWER)), step)
            return jax.tree.map(lambda a, p: a + rate * (p - a), average, params)
        d = teachers[name](step) if name in teachers else decay_at(float(name), step, ramp)
        return jax.tree.map(lambda a, p: d * a + (1 - d) * p, average, params)

    return {name: move(name, average) for name, average in averages.items()}
