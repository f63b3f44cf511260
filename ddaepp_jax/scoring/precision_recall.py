"""Improved precision and recall: the share of each set's features that lie in the manifold of the
other.

A manifold is the union of balls around a set's features, each out to its k-th nearest neighbour.
Distances come from matrix products, ``|x|^2 + |y|^2 - 2 x.y``, whose rounding is bounded; the few
features whose answer is within that bound are decided by differences instead, so that the result is
that of the plain definition.
"""

import functools
from collections.abc import Iterator

import numpy as np

ROWS = 2048  # features at a time: a block of distances is 32 MiB


def precision_recall(real: np.ndarray, fake: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Shares of ``fake`` inside real balls (precision) and of ``real`` inside fake balls (recall),
    0..1.

    Kynkaanniemi et al. 2019 (arXiv 1904.06991), equations 1 and 2. The feature itself is no
    neighbour, its duplicate is one; a ball holds its boundary, as it does in ADM's evaluator and in
    torch-fidelity.

    Args:
      real, fake: (N, D) and (M, D) features, arrays or memory maps.

    Raises:
      ValueError: features don't fit each other or aren't finite, or k isn't within 1..min(N, M) -
        1.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"features of shapes {real.shape} and {fake.shape}; it takes (N, D) and (M, D)"
        )
    smaller = min(len(real), len(fake))
    if not 1 <= k < smaller:
        raise ValueError(
            f"neighbour {k} among {len(real)} and {len(fake)} features; it takes 1..{smaller - 1}"
        )
    with np.errstate(invalid="ignore"):  # inf - inf
        centre = real.mean(
            axis=0, dtype=np.float64
        )  # taken out of both: norms near the distances have less to cancel
    norms = [
        np.concatenate([np.square(piece).sum(axis=1) for _, piece in _pieces(x, centre)])
        for x in (real, fake)
    ]
    largest = np.max([norm.max() for norm in norms])  # of NaN too
    if not np.isfinite(largest):
        raise ValueError("features that aren't finite")
    # A product of D terms is off by D eps |x| |y| at most; a squared distance by twice as much, and
    # so is a radius.
    slack = 8 * (real.shape[1] + 8) * np.finfo(np.float64).eps * largest

    radii = [_radii(x, norm, centre, k) for x, norm in zip((real, fake), norms, strict=True)]
    outside = [
        np.full(len(x), np.inf) for x in (real, fake)
    ]  # squared distance less radius, of the best of the balls
    for rows, x in _pieces(real, centre):
        for columns, y in _pieces(fake, centre):
            block = _squared(x, y, norms[0][rows], norms[1][columns])
            np.minimum(
                outside[1][columns],
                (block - radii[0][rows, None]).min(axis=0),
                out=outside[1][columns],
            )
            block -= radii[1][None, columns]
            np.minimum(outside[0][rows], block.min(axis=1), out=outside[0][rows])
    precision = _inside(fake, outside[1], real, radii[0], k, slack).mean()
    return float(precision), float(_inside(real, outside[0], fake, radii[1], k, slack).mean())


def _pieces(features: np.ndarray, centre: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows, and their (B, D) features less the centre, float64."""
    for start in range(0, len(features), ROWS):
        rows = slice(start, min(start + ROWS, len(features)))
        yield rows, features[rows] - centre[None]


def _squared(x: np.ndarray, y: np.ndarray, x_norms: np.ndarray, y_norms: np.ndarray) -> np.ndarray:
    """Squared distances (B, C) of (B, D) and (C, D)."""
    block = x @ y.T
    block *= -2
    block += x_norms[:, None]
    block += y_norms[None]
    return block


def _radii(features: np.ndarray, norms: np.ndarray, centre: np.ndarray, k: int) -> np.ndarray:
    """(N,) squared distances to the k-th neighbour of the own set, each pair's computed once."""
    nearest = np.full((len(features), k), np.inf)

    def meet(rows: slice, distances: np.ndarray) -> None:
        least = (
            np.partition(distances, k - 1, axis=1)[:, :k] if distances.shape[1] > k else distances
        )
        nearest[rows] = np.partition(np.concatenate([nearest[rows], least], axis=1), k - 1, axis=1)[
            :, :k
        ]

    for rows, x in _pieces(features, centre):
        for columns, y in _pieces(features[: rows.stop], centre):
            block = _squared(x, y, norms[rows], norms[columns])
            if rows == columns:
                np.fill_diagonal(block, np.inf)
            else:
                meet(columns, block.T)
            meet(rows, block)
    return nearest.max(axis=1)


def _inside(
    features: np.ndarray,
    outside: np.ndarray,
    others: np.ndarray,
    radii: np.ndarray,
    k: int,
    slack: float,
) -> np.ndarray:
    """(N,) bool: whether features lie in a ball of ``others``; by differences where ``outside`` is
    within ``slack``.
    """
    radius = functools.cache(
        lambda i: np.partition(np.delete(_differences(others, others[i]), i), k - 1)[k - 1]
    )
    inside = outside < -slack
    for i in np.flatnonzero(np.abs(outside) <= slack):
        exact = _differences(others, features[i])
        inside[i] = any(exact[j] <= radius(j) for j in np.flatnonzero(exact <= radii + slack))
    return inside


def _differences(features: np.ndarray, feature: np.ndarray) -> np.ndarray:
    """(N,) squared distances to one feature; the same number for a pair, whichever way and wherever
    it is taken.
    """
    feature = np.asarray(feature, np.float64)
    return np.concatenate([np.square(piece).sum(axis=1) for _, piece in _pieces(features, feature)])
