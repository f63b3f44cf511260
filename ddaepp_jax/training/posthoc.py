"""Power-function averages made after training, as weighted sums of snapshots.

The method is that of EDM2 (arXiv 2312.02696, section 3.2). A snapshot of the average sigma_rel at
step t has a profile: the weight that it gives to the parameters of each step. The average with
another profile is approximated by the combination of snapshots whose profile is the nearest in the
least-squares sense.
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

LARGEST_ERROR = 0.1  # Profiles with a larger relative error are refused.


def inner_product(t: Any, sigma_rel: Any, other_t: Any, other_sigma_rel: Any) -> Any:
    """Returns the integral of the product of two profiles.

    A profile is (gamma + 1) tau^gamma / t^(gamma + 1) on [0, t]. The closed form is eq. 151 as the
    authors' code numbers it, in float64; arguments broadcast.
    """
    gamma, other = ema.exponent(sigma_rel), ema.exponent(other_sigma_rel)
    first, last = np.minimum(t, other_t), np.maximum(t, other_t)
    of_last = np.where(np.less(t, other_t), other, gamma)
    return (gamma + 1) * (other + 1) / (gamma + other + 1) / last * (first / last) ** of_last


def fit(
    steps: Sequence[int], sigma_rels: Sequence[float], step: int, sigma_rel: float
) -> tuple[np.ndarray, float]:
    """Fits a weighted sum of snapshots to the profile of ``sigma_rel`` at ``step``.

    The weights minimise the L2 distance between the profiles, and sum to 1, as those of a mean.

    Args:
      steps, sigma_rels: (N,) steps and widths of the snapshots.
      step, sigma_rel: step and width of the target.

    Returns:
      (N,) float64 weights, and the remaining distance relative to the norm of the profile.
    """
    t = np.asarray(steps, np.float64) / step
    s = np.asarray(sigma_rels, np.float64)
    gram = inner_product(t[:, None], s[:, None], t, s)
    to_target = inner_product(t, s, 1.0, sigma_rel)
    target_square = inner_product(1.0, sigma_rel, 1.0, sigma_rel)
    ones = np.ones((len(t), 1))
    # The last row and column hold the Lagrange multiplier of the constraint on the sum.
    system = np.block([[gram, ones], [ones.T, np.zeros((1, 1))]])
    weights = np.linalg.lstsq(system, np.append(to_target, 1.0), rcond=None)[0][:-1]
    square = target_square - 2 * weights @ to_target + weights @ gram @ weights
    return weights, float(np.sqrt(max(square, 0.0) / target_square))


def combine(directory: Path, weights: Mapping[tuple[int, float], float], placed: Sharding) -> Any:
    """Computes the weighted sum of snapshots.

    Memory holds the snapshots of one step at a time, beside the sum. The sum is float64 on the
    host: weights may be large and of both signs, and the result must not depend on the devices.

    Args:
      directory: directory of the snapshots.
      weights: weight of each snapshot, by its (step, sigma_rel).
      placed: sharding of the result.

    Returns:
      The network's parameters, float32.

    Raises:
      InputError: a snapshot is damaged.
    """
    total = None
    for step in dict.fromkeys(step for step, _ in weights):
        by_name = {
            ema.power_name(sigma_rel): weight
            for (snapshot_step, sigma_rel), weight in weights.items()
            if snapshot_step == step
        }
        for name, network in restore_networks(directory, step, tuple(by_name), placed).items():
            term = jax.tree.map(
                lambda leaf, weight=by_name[name]: weight * np.asarray(leaf, np.float64), network
            )
            total = term if total is None else jax.tree.map(np.add, total, term)
    return parallel.put(jax.tree.map(np.float32, total), placed)


def reconstruct(
    directory: Path, tracked: Sequence[float], step: int, sigma_rel: float, placed: Sharding
) -> tuple[Any, int, float]:
    """Makes the network's average ``sigma_rel`` at the last snapshot at or before ``step``.

    Args:
      directory: directory of the snapshots.
      tracked: widths of the snapshots.
      placed: sharding of the result.

    Returns:
      The parameters, their step, and the relative L2 error of the profile (at most
      ``LARGEST_ERROR``).

    Raises:
      InputError: there is no such snapshot, or the error of the profile is too large.
    """
    steps = [saved for saved in steps_of(directory) if saved <= step]
    if not steps:
        raise InputError(
            f"sigma_rel: {sigma_rel} cannot be made, as {directory} has no snapshot at or before "
            f"step {step}, and the run tracked ema.sigma_rel={tuple(tracked)}; to make others, "
            "train with ema.snapshot_every"
        )
    snapshots = [(saved, width) for saved in steps for width in tracked]
    weights, error = fit(*zip(*snapshots, strict=True), steps[-1], sigma_rel)
    if error > LARGEST_ERROR:
        raise InputError(
            f"sigma_rel: {sigma_rel} at step {steps[-1]} is out of reach of {len(steps)} snapshots "
            f"of {tuple(tracked)}: its profile would be off by {error:.0%}; choose a width nearer "
            "to these, or train with a smaller ema.snapshot_every"
        )
    params = combine(directory, dict(zip(snapshots, weights.tolist(), strict=True)), placed)
    return params, steps[-1], error
