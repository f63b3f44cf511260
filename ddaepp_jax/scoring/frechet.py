"""The Frechet distance between Gaussians fitted to features; with Inception's features it is FID.

The usual computation takes the square root of the product of two covariances. That matrix need not
be symmetric and may be singular, and the computation fails with fewer images than dimensions. Here
a covariance is stored as a factor, and the distance needs only a sum of singular values, which are
well conditioned at any rank.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from scipy.linalg import eigh, lapack, svdvals

ROWS = 4096  # features at a time: 64 MiB of float64 if D is 2048
# Eigenvalues may be this far below zero, relative to the largest: a covariance that was stored in
# float32 has rounding errors.
INDEFINITE = 1e-6


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """A Gaussian over D features.

    Attributes:
      mean: (D,) float64.
      factor: (r, D) float64; the covariance is ``factor.T @ factor``.
    """

    mean: np.ndarray
    factor: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """The covariance (D, D), float64."""
        return self.factor.T @ self.factor


def gaussian(features: np.ndarray) -> Gaussian:
    """Fits the mean and the unbiased covariance, in two passes.

    Args:
      features: (N, D), an array or a memory map.

    Raises:
      ValueError: the shape is not (N, D) with N >= 2, or a feature is not finite.
    """
    if features.ndim != 2 or len(features) < 2 or not features.shape[1]:
        raise ValueError(f"features of shape {features.shape}; give (N, D) with N >= 2")
    n, dims = features.shape
    with np.errstate(invalid="ignore"):  # inf - inf
        mean = sum(piece.sum(axis=0, dtype=np.float64) for piece in _pieces(features)) / n
    if not np.isfinite(mean).all():
        raise ValueError("features are not finite; give finite features")
    if n <= dims:
        return Gaussian(mean, (features - mean[None]) / np.sqrt(n - 1))
    covariance = np.zeros((dims, dims))
    for piece in _pieces(features):
        centred = piece - mean[None]
        covariance += centred.T @ centred  # NumPy computes half of a symmetric product.
    return Gaussian(mean, _factor(covariance / (n - 1)))


def from_moments(mean: np.ndarray, covariance: np.ndarray) -> Gaussian:
    """Returns the Gaussian with the given moments, as files of statistics store them.

    Args:
      mean: (D,).
      covariance: (D, D).

    Raises:
      ValueError: the shapes don't fit, a number isn't finite, the covariance isn't symmetric, or it
        has a clearly negative eigenvalue.
    """
    mean = np.asarray(mean, np.float64)
    covariance = np.asarray(covariance, np.float64)
    if mean.ndim != 1 or not mean.size or covariance.shape != 2 * mean.shape:
        raise ValueError(
            f"mean of shape {mean.shape}, covariance of {covariance.shape}; give (D,) and (D, D)"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError("mean or covariance is not finite; give finite numbers")
    if np.abs(covariance - covariance.T).max() > INDEFINITE * np.abs(covariance).max():
        raise ValueError("covariance is not symmetric; give a symmetric matrix")
    return Gaussian(mean, _factor((covariance + covariance.T) / 2))


def distance(a: Gaussian, b: Gaussian) -> float:
    """Computes the squared distance of equation 6 in Heusel et al. 2017 (Dowson & Landau 1982).

    With covariances ``F1^T F1`` and ``F2^T F2`` it is ``|mean1 - mean2|^2 + |F1|^2 + |F2|^2 - 2
    ||F1 F2^T||_*``: the eigenvalues of their product are those of ``(F1 F2^T) (F1 F2^T)^T``, so
    that the trace of its square root is the sum of the singular values of ``F1 F2^T``.

    Raises:
      ValueError: the Gaussians have different dimensions.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"features have {a.mean.size} and {b.mean.size} dimensions; give the same number"
        )
    f1 = _thin(a.factor)
    f2 = _thin(b.factor)
    traces = np.square(f1).sum() + np.square(f2).sum()
    shared = 0.0
    if f1.size and f2.size:
        shared = svdvals(f1 @ f2.T, overwrite_a=True, check_finite=False).sum()
    squared = np.square(a.mean - b.mean).sum() + traces - 2 * shared
    rounding = a.mean.size * np.finfo(np.float64).eps * traces
    return float(max(squared, 0.0) if squared > -rounding else squared)


def _pieces(features: np.ndarray) -> Iterator[np.ndarray]:
    """Yields views (B, D) of (N, D) features."""
    return (features[i : i + ROWS] for i in range(0, len(features), ROWS))


def _thin(factor: np.ndarray) -> np.ndarray:
    """Returns a factor of the same covariance with at most as many rows as columns."""
    return factor if len(factor) <= factor.shape[1] else np.linalg.qr(factor, mode="r")


def _factor(covariance: np.ndarray) -> np.ndarray:
    """Returns a factor (r, D) of a covariance (D, D).

    It is found by pivoted Cholesky, which ends at the numerical rank r, or by eigenvectors if
    rounding misleads Cholesky. Both drop values below D eps of the largest: in a dimension without
    variance, a square root would turn rounding of 1e-16 into 1e-8.
    """
    dims = len(covariance)
    largest = covariance.diagonal().max()
    cut = dims * np.finfo(np.float64).eps
    upper, order, rank, _ = lapack.dpstrf(covariance, tol=cut * max(largest, 0.0))
    factor = np.zeros((rank, dims))
    factor[:, order - 1] = np.triu(upper)[:rank]
    if rank == dims or np.abs(factor.T @ factor - covariance).max() <= 10 * cut * largest:
        return factor
    values, vectors = eigh(covariance, check_finite=False)
    if values[0] < -INDEFINITE * values[-1]:
        raise ValueError(
            f"covariance has an eigenvalue of {values[0]:.3g} beside one of {values[-1]:.3g}; "
            "give a covariance without negative eigenvalues"
        )
    kept = values > cut * values[-1]
    return np.sqrt(values[kept])[:, None] * vectors[:, kept].T
