"""Averages made after training: a power-function profile as a weighted sum of snapshots (EDM2,
arXiv 2312.02696, 3.2).

A snapshot of the average sigma_rel at step t stands for its profile, the weights that it gives to
the parameters of each step. Another profile is the combination of those there are that comes
nearest to it in the least-squares sense.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from ddaepp_jax.base import parallel
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.training import ema
from ddaepp_jax.training.checkpoint import restore_networks, steps_of

LARGEST_ERROR = 0.1  # relative, of a profile that is still taken for the one that was asked for


def inner_product(t: Any, sigma_rel: Any, other_t: Any, other_sigma_rel: Any) -> Any:
    """The integral of the product of two profiles (gamma + 1) tau^gamma / t^(gamma + 1), each on
    its [0, t].

    In closed form (eq. 151 as the authors' code numbers it), float64; arguments broadcast.
    """
    gamma, other = ema.exponent(sigma_rel), ema.exponent(other_sigma_rel)
    first, last = np.minimum(t, other_t), np.maximum(t, other_t)
    of_last = np.where(np.less(t, other_t), other, gamma)
    return (gamma + 1) * (other + 1) / (gamma + other + 1) / last * (first / last) ** of_last


def fit(steps: Any, sigma_rels: Any, step: int, sigma_rel: float) -> tuple[np.ndarray, float]:
    """Weights of snapshots whose sum is nearest to the profile ``sigma_rel`` at ``step``.

    They minimise the L2 distance of the profiles among weights that sum to 1, as a mean's have to.

    Args:
      steps, sigma_rels: (N,) of the snapshots.

    Returns:
      (N,) float64 weights, and the distance that is left, relative to the profile's norm.
    """
    t, s = np.asarray(steps, np.float64) / step, np.asarray(sigma_rels, np.float64)
    among = inner_product(t[:, None], s[:, None], t, s)
    to_wanted, of_wanted = (
        inner_product(t, s, 1.0, sigma_rel),
        inner_product(1.0, sigma_rel, 1.0, sigma_rel),
    )
    ones = np.ones((len(t), 1))
    with_multiplier = np.block(
        [[among, ones], [ones.T, np.zeros((1, 1))]]
    )  # Lagrange's, of the sum
    weights = np.linalg.lstsq(with_multiplier, np.append(to_wanted, 1.0), rcond=None)[0][:-1]
    left = of_wanted - 2 * weights @ to_wanted + weights @ among @ weights
    return weights, float(np.sqrt(max(left, 0.0) / of_wanted))


def combine(directory: Path, weights: Mapping[tuple[int, float], float], placed: Sharding) -> Any:
    """The weighted sum of snapshots ``{(step, sigma_rel): weight}``: the network's parameters,
    float32.

    Those of one step are in memory at a time, beside the sum, which is float64 on the host: weights
    may be large and of both signs, and devices change no bit.

    Raises:
      InputError: a snapshot is damaged.
    """
    total = None
    for step in dict.fromkeys(step for step, _ in weights):
        here = {
            ema.power_name(width): weight for (at, width), weight in weights.items() if at == step
        }
        for name, network in restore_networks(directory, step, tuple(here), placed).items():
            part = jax.tree.map(
                lambda leaf, w=here[name]: w * np.asarray(leaf, np.float64), network
            )
            total = part if total is None else jax.tree.map(np.add, total, part)
    return parallel.put(jax.tree.map(np.float32, total), placed)


def reconstruct(
    directory: Path, tracked: Sequence[float], step: int, sigma_rel: float, placed: Sharding
) -> tuple[Any, int, float]:
    """The network's average ``sigma_rel`` at the last snapshot at or before ``step``, from the
    snapshots up to there.

    Args:
      directory: of the snapshots; tracked: their widths.

    Returns:
      The parameters, the step, and the relative L2 error of the profile, at most ``LARGEST_ERROR``.

    Raises:
      InputError: there is no such snapshot, or the profile is out of reach.
    """
    steps = [saved for saved in steps_of(directory) if saved <= step]
    if not steps:
        there = f"no snapshot at or before step {step} in {directory}"
        widths = f"the run has ema.sigma_rel={tuple(tracked)}; it takes ema.snapshot_every to make another"
        raise InputError(
            f"sigma_rel: no average {sigma_rel}, and {there} to make it from; {widths}"
        )
    given = [(saved, width) for saved in steps for width in tracked]
    weights, error = fit(*zip(*given, strict=True), steps[-1], sigma_rel)
    if error > LARGEST_ERROR:
        raise InputError(
            f"sigma_rel: {sigma_rel} at step {steps[-1]} is out of reach of {len(steps)} snapshots of "
            f"{tuple(tracked)}: its profile would be off by {error:.0%}; take one nearer to these, or, for the next "
            "run, a smaller ema.snapshot_every"
        )
    return (
        combine(directory, dict(zip(given, weights.tolist(), strict=True)), placed),
        steps[-1],
        error,
    )
