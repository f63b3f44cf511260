"""Frechet distance of two Gaussians that sets of features were fitted by: FID, where the features
are Inception's.

The usual way takes the square root of the product of two covariances, a matrix that need not be
symmetric and that may be singular, and it fails where images are fewer than dimensions. Here a
covariance is held by a factor: what is left is a sum of singular values, which are well conditioned
  whatever the rank.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from scipy.linalg import eigh, lapack, svdvals

ROWS = 4096  # features at a time: 64 MiB of float64 where D is 2048
INDEFINITE = (
    1e-6  # of the largest eigenvalue: a covariance that was kept in float32 has rounding below zero
)


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """A Gaussian over D features.

    Attributes:
      mean: (D,) float64.
      factor: (r, D) float64, of the covariance, which is ``factor.T @ factor``.
    """

    mean: np.ndarray
    factor: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """(D, D) float64."""
        return self.factor.T @ self.factor


def gaussian(features: np.ndarray) -> Gaussian:
    """Mean and unbiased covariance of (N, D) features, in two passes over an array or a memory map.

    Raises:
      ValueError: not (N, D) with N of at least 2, or not finite.
    """
    if features.ndim != 2 or len(features) < 2 or not features.shape[1]:
        raise ValueError(
            f"features of shape {features.shape}; it takes (N, D), and N of at least 2"
        )
    n, dims = features.shape
    with np.errstate(invalid="ignore"):  # inf - inf
        mean = sum(piece.sum(axis=0, dtype=np.float64) for piece in _pieces(features)) / n
    if not np.isfinite(mean).all():
        raise ValueError("features that aren't finite")
    if n <= dims:
        return Gaussian(mean, (features - mean[None]) / np.sqrt(n - 1))
    covariance = np.zeros((dims, dims))
    for piece in _pieces(features):
        centred = piece - mean[None]
        covariance += centred.T @ centred  # NumPy knows a symmetric product: half the work
    return Gaussian(mean, _factor(covariance / (n - 1)))


def from_moments(mean: np.ndarray, covariance: np.ndarray) -> Gaussian:
    """The Gaussian of a mean (D,) and a covariance (D, D), as files of statistics keep them.

    Raises:
      ValueError: shapes don't fit, numbers aren't finite, or the matrix isn't symmetric or has an
        eigenvalue that is clearly negative.
    """
    mean, covariance = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
    if mean.ndim != 1 or not mean.size or covariance.shape != 2 * mean.shape:
        raise ValueError(
            f"mean of shape {mean.shape}, covariance of {covariance.shape}; it takes (D,) and (D, D)"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError("mean or covariance that isn't finite")
    if np.abs(covariance - covariance.T).max() > INDEFINITE * np.abs(covariance).max():
        raise ValueError("covariance that isn't symmetric")
    return Gaussian(mean, _factor((covariance + covariance.T) / 2))


def distance(a: Gaussian, b: Gaussian) -> float:
    """The squared distance of equation 6 in Heusel et al. 2017 (Dowson & Landau 1982), float64.

    With covariances ``F1^T F1`` and ``F2^T F2`` it is ``|mean1 - mean2|^2 + |F1|^2 + |F2|^2 - 2
    ||F1 F2^T||_*``: the eigenvalues of their product are those of ``(F1 F2^T) (F1 F2^T)^T``, so
    that the trace of its square root is the sum of the singular values of ``F1 F2^T``.

    Raises:
      ValueError: features of different widths.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {a.mean.size} and {b.mean.size} dimensions")
    one, other = _thin(a.factor), _thin(b.factor)
    spread = np.square(one).sum() + np.square(other).sum()
    shared = (
        svdvals(one @ other.T, overwrite_a=True, check_finite=False).sum()
        if one.size and other.size
        else 0.0
    )
    found = np.square(a.mean - b.mean).sum() + spread - 2 * shared
    rounding = a.mean.size * np.finfo(np.float64).eps * spread
    return float(max(found, 0.0) if found > -rounding else found)


def _pieces(features: np.ndarray) -> Iterator[np.ndarray]:
    """(B, D) views."""
    return (features[i : i + ROWS] for i in range(0, len(features), ROWS))


def _thin(factor: np.ndarray) -> np.ndarray:
    """A factor of the same covariance, with at most as many rows as columns."""
    return factor if len(factor) <= factor.shape[1] else np.linalg.qr(factor, mode="r")


def _factor(covariance: np.ndarray) -> np.ndarray:
    """(r, D): by Cholesky with pivots, which ends at the numerical rank r; by eigenvectors, where
    rounding misleads it.

    Both cut off what is below D eps of the largest: a square root would make 1e-8 of rounding of
    1e-16, in each dimension that has no variance.
    """
    dims, largest = len(covariance), covariance.diagonal().max()
    cut = dims * np.finfo(np.float64).eps
    upper, order, rank, _ = lapack.dpstrf(covariance, tol=cut * max(largest, 0.0))
    factor = np.zeros((rank, dims))
    factor[:, order - 1] = np.triu(upper)[:rank]
    if rank == dims or np.abs(factor.T @ factor - covariance).max() <= 10 * cut * largest:
        return factor
    values, vectors = eigh(covariance, check_finite=False)
    if values[0] < -INDEFINITE * values[-1]:
        raise ValueError(
            f"covariance with an eigenvalue of {values[0]:.3g} beside one of {values[-1]:.3g}"
        )
    kept = values > cut * values[-1]
    return np.sqrt(values[kept])[:, None] * vectors[:, kept].T
