"""Improved precision and recall: how much of each set of features lies in the other's manifold.

A manifold is the union of balls around a set's features, each as large as the distance to its k-th
nearest neighbour. Distances are computed by matrix products, ``|x|^2 + |y|^2 - 2 x.y``, whose
rounding error is bounded. The few features that this bound leaves undecided are decided by
differences, so the result is exactly that of the definition.
"""

import functools
from collections.abc import Iterator

import numpy as np

ROWS = 2048  # features at a time: a block of distances is 32 MiB


def precision_recall(real: np.ndarray, fake: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Computes the share of ``fake`` in real balls, and of ``real`` in fake balls.

    Kynkaanniemi et al. 2019 (arXiv 1904.06991), equations 1 and 2. A feature is not its own
    neighbour, but its duplicate is. A ball includes its boundary, as in ADM's evaluator and in
    torch-fidelity.

    Args:
      real: (N, D) features, an array or a memory map.
      fake: (M, D) features.
      k: which nearest neighbour a ball extends to.

    Returns:
      Precision and recall, in 0..1.

    Raises:
      ValueError: the shapes don't fit, a feature isn't finite, or k is not in 1..min(N, M) - 1.
    """
    _check(real, fake, k)
    with np.errstate(invalid="ignore"):  # inf - inf
        # Without the mean of one set, norms are near the distances, and less cancels.
        centre = real.mean(axis=0, dtype=np.float64)
    real_norms = _norms(real, centre)
    fake_norms = _norms(fake, centre)
    largest = np.max([real_norms.max(), fake_norms.max()])  # NaN if any is NaN.
    if not np.isfinite(largest):
        raise ValueError("features are not finite; give finite features")
    # A product of D terms has an error of at most D eps |x| |y|, a squared distance has twice that,
    # and a radius has as much again.
    slack = 8 * (real.shape[1] + 8) * np.finfo(np.float64).eps * largest
    real_radii = _radii(real, real_norms, centre, k)
    fake_radii = _radii(fake, fake_norms, centre, k)

    # Squared distance minus squared radius, the least over all balls of the other set.
    real_outside = np.full(len(real), np.inf)
    fake_outside = np.full(len(fake), np.inf)
    for rows, x in _pieces(real, centre):
        for columns, y in _pieces(fake, centre):
            block = _squared(x, y, real_norms[rows], fake_norms[columns])
            to_real = (block - real_radii[rows, None]).min(axis=0)
            np.minimum(fake_outside[columns], to_real, out=fake_outside[columns])
            block -= fake_radii[None, columns]
            np.minimum(real_outside[rows], block.min(axis=1), out=real_outside[rows])
    precision = _inside(fake, fake_outside, real, real_radii, k, slack).mean()
    recall = _inside(real, real_outside, fake, fake_radii, k, slack).mean()
    return float(precision), float(recall)


def _check(real: np.ndarray, fake: np.ndarray, k: int) -> None:
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"features of shapes {real.shape} and {fake.shape}; give (N, D) and (M, D)"
        )
    smaller = min(len(real), len(fake))
    if not 1 <= k < smaller:
        raise ValueError(
            f"neighbour {k} among {len(real)} and {len(fake)} features; give 1..{smaller - 1}"
        )


def _pieces(features: np.ndarray, centre: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields rows, and their (B, D) features minus the centre in float64."""
    for start in range(0, len(features), ROWS):
        rows = slice(start, min(start + ROWS, len(features)))
        yield rows, features[rows] - centre[None]


def _norms(features: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Returns squared distances (N,) to a centre (D,)."""
    return np.concatenate([np.square(x).sum(axis=1) for _, x in _pieces(features, centre)])


def _squared(x: np.ndarray, y: np.ndarray, x_norms: np.ndarray, y_norms: np.ndarray) -> np.ndarray:
    """Returns squared distances (B, C) between (B, D) and (C, D)."""
    block = x @ y.T
    block *= -2
    block += x_norms[:, None]
    block += y_norms[None]
    return block


def _radii(features: np.ndarray, norms: np.ndarray, centre: np.ndarray, k: int) -> np.ndarray:
    """Returns squared distances (N,) to the k-th neighbour in the same set.

    Each pair's distance is computed once.
    """
    nearest = np.full((len(features), k), np.inf)

    def update(rows: slice, distances: np.ndarray) -> None:
        if distances.shape[1] > k:
            distances = np.partition(distances, k - 1, axis=1)[:, :k]
        candidates = np.concatenate([nearest[rows], distances], axis=1)
        nearest[rows] = np.partition(candidates, k - 1, axis=1)[:, :k]

    for rows, x in _pieces(features, centre):
        for columns, y in _pieces(features[: rows.stop], centre):
            block = _squared(x, y, norms[rows], norms[columns])
            if rows == columns:
                np.fill_diagonal(block, np.inf)
            else:
                update(columns, block.T)
            update(rows, block)
    return nearest.max(axis=1)


def _inside(
    features: np.ndarray,
    outside: np.ndarray,
    others: np.ndarray,
    radii: np.ndarray,
    k: int,
    slack: float,
) -> np.ndarray:
    """Returns (N,) bool: whether features lie in a ball of ``others``.

    Args:
      features: (N, D).
      outside: (N,) squared distance minus squared radius, the least over all balls.
      others: (M, D), the centres of the balls.
      radii: (M,) squared radii.
      k: which neighbour a ball extends to.
      slack: bound on the error of ``outside``; within it, exact differences decide.
    """

    @functools.cache
    def exact_radius(i: int) -> np.float64:
        return np.partition(np.delete(_differences(others, others[i]), i), k - 1)[k - 1]

    inside = outside < -slack
    for i in np.flatnonzero(np.abs(outside) <= slack):
        exact = _differences(others, features[i])
        candidates = np.flatnonzero(exact <= radii + slack)
        inside[i] = any(exact[j] <= exact_radius(j) for j in candidates)
    return inside


def _differences(features: np.ndarray, feature: np.ndarray) -> np.ndarray:
    """Returns squared distances (N,) to one feature, by differences.

    A pair has the same distance in either order and anywhere in the sets.
    """
    return _norms(features, np.asarray(feature, np.float64))
