"""Kernel Inception distance: an unbiased distance of two sets of features, by a kernel and over
drawn subsets.
"""

import numpy as np


def kid(
    a: np.ndarray, b: np.ndarray, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation (of the subsets, not of their mean) of the unbiased MMD^2; it may
    be below zero.

    Binkowski et al. 2018 (arXiv 1801.01401), section 4 and equation 4 for sets of one size. As
    torch-fidelity has it, down to the order in which images are drawn: with its ``seed``, 2020, its
    very numbers.

    Args:
      a, b: (N, D) and (M, D) features.
      subsets, subset_size: how many times that many images of each set are drawn, without
        replacement; a set that is smaller bounds the size.
      seed: of ``RandomState``, whose stream NumPy promises to keep.

    Raises:
      ValueError: features don't fit each other, subsets are none or have less than two images.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features of shapes {a.shape} and {b.shape}; it takes (N, D) and (M, D)")
    size = min(subset_size, len(a), len(b))
    if size < 2 or subsets < 1:
        raise ValueError(f"{subsets} subsets of {size} images; it takes at least 1 of at least 2")
    random, found = np.random.RandomState(seed), np.empty(subsets)
    for i in range(subsets):
        x, y = (
            np.asarray(set_[random.choice(len(set_), size, replace=False)], np.float64)
            for set_ in (a, b)
        )
        found[i] = _others(x) + _others(y) - 2 * _kernel(x, y).mean()
    return float(found.mean()), float(found.std())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x.y / D + 1)^3 of each pair: (B, D), (C, D) -> (B, C)."""
    base = x @ y.T / x.shape[1] + 1
    return base * base * base  # an order faster than a power


def _others(x: np.ndarray) -> float:
    """The kernel's mean over pairs of two different rows of (B, D)."""
    kernel, n = _kernel(x, x), len(x)
    return (kernel.sum() - kernel.trace()) / (n * (n - 1))
