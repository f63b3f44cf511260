"""The Kernel Inception Distance: an unbiased squared distance (MMD) between sets of features."""

import numpy as np


def kid(
    a: np.ndarray, b: np.ndarray, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Computes the unbiased MMD^2 of random subsets; it may be negative.

    Binkowski et al. 2018 (arXiv 1801.01401), section 4, and equation 4 for sets of one size. Images
    are drawn in torch-fidelity's order, so that its ``seed``, 2020, gives its numbers.

    Args:
      a: (N, D) features.
      b: (M, D) features.
      subsets: number of subsets.
      subset_size: images of each set in a subset, drawn without replacement; a smaller set bounds
        it.
      seed: seed of ``RandomState``, whose stream NumPy promises to keep.

    Returns:
      The mean over the subsets, and the standard deviation of the subsets (not of their mean).

    Raises:
      ValueError: the shapes don't fit, there is no subset, or a subset has less than 2 images.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features of shapes {a.shape} and {b.shape}; give (N, D) and (M, D)")
    size = min(subset_size, len(a), len(b))
    if size < 2 or subsets < 1:
        raise ValueError(f"{subsets} subsets of {size} images; give at least 1 of at least 2")
    random = np.random.RandomState(seed)

    def subset(features: np.ndarray) -> np.ndarray:
        rows = random.choice(len(features), size, replace=False)
        return np.asarray(features[rows], np.float64)

    values = np.empty(subsets)
    for i in range(subsets):
        x = subset(a)
        y = subset(b)
        values[i] = _mean_off_diagonal(x) + _mean_off_diagonal(y) - 2 * _kernel(x, y).mean()
    return float(values.mean()), float(values.std())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Computes (x.y / D + 1)^3 for each pair: (B, D), (C, D) -> (B, C)."""
    base = x @ y.T / x.shape[1] + 1
    return base * base * base  # Ten times faster than a power.


def _mean_off_diagonal(x: np.ndarray) -> float:
    """Returns the kernel's mean over pairs of different rows of (B, D)."""
    kernel = _kernel(x, x)
    n = len(x)
    return (kernel.sum() - kernel.trace()) / (n * (n - 1))
