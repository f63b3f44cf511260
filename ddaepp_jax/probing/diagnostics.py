"""Diagnostics of features without labels.

They measure how far two views of an image agree, and how much of their space the features fill.
All are functions of features (N, D), computed in float64. Normalised features have length 1; a
feature of zeros stays zero. This module needs no JAX.
"""

from collections.abc import Mapping

import numpy as np

PIXELS = "pixels"  # name of raw pixels among the layers
FEWEST = 10  # fewest images to diagnose: with fewer, the rank is small for any features
BLOCK = 1024  # images whose distances to the others are in memory at once
ROUNDING = float(np.finfo(np.float32).eps)  # relative error of float32 features

# Features below these limits have collapsed. Untrained networks stay above them: among tiny U-ViTs,
# UNets and DiTs on digits, the smallest spread is 0.06 and the smallest rank 3.6. Both smallest
# values are of DiTs, whose features start as a linear map of the mean patch. If a patch is one
# pixel, the rank of a DiT is at most the number of channels; on CIFAR-10 it is 2.4.
LEAST_SPREAD = 1e-3
LEAST_RANK = 2.0


def _unit(z: np.ndarray) -> np.ndarray:
    """Scales rows to length 1; rows of zeros stay zero."""
    z = z.astype(np.float64)
    length = np.linalg.norm(z, axis=1, keepdims=True)
    return z / np.where(length > 0, length, 1)


def alignment(a: np.ndarray, b: np.ndarray) -> float:
    """Computes the mean squared distance of two views' normalised features (N, D).

    It is 0 where the views agree, 2 where they are orthogonal and 4 where they are opposite (Wang
    and Isola, arXiv 2005.10242, section 4.1, alpha = 2).
    """
    return float(np.square(_unit(a) - _unit(b)).sum(axis=1).mean())


def uniformity(z: np.ndarray) -> float:
    """Computes the log of the mean of ``exp(-2 |z_i - z_j|^2)`` over pairs of images.

    ``z`` (N, D) is normalised first. The value is -8 for opposite pairs, about -4 for many images
    that are spread evenly, and 0 where all have one direction or N is 1 (Wang and Isola, arXiv
    2005.10242, section 4.1, t = 2).
    """
    if len(z) < 2:
        return 0.0
    z = _unit(z)
    total = 0.0
    square = np.square(z).sum(axis=1)
    for start in range(0, len(z), BLOCK):
        rows = slice(start, start + BLOCK)
        distance = square[rows, None] + square[None, start:] - 2 * z[rows] @ z[start:].T
        total += np.triu(np.exp(-2 * np.maximum(distance, 0)), k=1).sum()  # i < j
    return float(np.log(total / (len(z) * (len(z) - 1) / 2)))


def effective_rank(z: np.ndarray) -> float:
    """Computes the exponential of the entropy of the singular values, whose sum is scaled to 1.

    The value is 1 where the features (N, D) lie on a line, min(N - 1, D) where no direction is
    preferred, and 0 where they are constant (Roy and Vetterli, EUSIPCO 2007). RankMe (arXiv
    2210.02885) is the same without centring. Features are centred here, as a mean that all images
    share doesn't distinguish them, but would count as a direction, mostly as the largest.

    The singular values are the square roots of the eigenvalues of the smaller Gram matrix, which
    are several times faster than a decomposition of the features. Their error is 3e-8 of the
    largest value. Values below the rounding of float32 features, 1.2e-7 of their norm, are left
    out, and the error with them.
    """
    z = z.astype(np.float64)
    norm = np.linalg.norm(z)
    z = z - z.mean(axis=0, keepdims=True)
    gram = z @ z.T if len(z) < z.shape[1] else z.T @ z
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))
    values = values[values > ROUNDING * norm]
    if not len(values):
        return 0.0
    p = values / values.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def spread(z: np.ndarray) -> float:
    """Computes the standard deviation of normalised features over images, times sqrt(D).

    ``z`` is (N, D), and the mean is taken over dimensions. The value is 1 where the features are as
    wide as the sphere, and 0 where all images have one direction. SimSiam (arXiv 2011.10566,
    section 4.1) compares the deviation with 1 / sqrt(D).
    """
    z = _unit(z)
    return float(z.std(axis=0).mean() * np.sqrt(z.shape[1]))


def diagnose(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Computes all four values from two views' features (N, D) of the same images.

    All but the alignment are those of the first view.
    """
    return {
        "alignment": alignment(a, b),
        "uniformity": uniformity(a),
        "effective_rank": effective_rank(a),
        "spread": spread(a),
    }


def collapse(values: Mapping[str, float]) -> str:
    """Describes a collapse of the features in words; "" if there is none.

    The collapse is complete where the spread is below 0.001: images hardly differ. It is
    dimensional where the effective rank is 2 or less: images differ along a line or two.

    Args:
      values: what ``diagnose`` returns.
    """
    if values["spread"] < LEAST_SPREAD:
        value = f"spread {values['spread']:.2g}"
        return f"the features have collapsed: all images have nearly the same ({value})"
    if values["effective_rank"] <= LEAST_RANK:
        value = f"effective rank {values['effective_rank']:.2f}"
        return f"the features have collapsed: images differ along a direction or two ({value})"
    return ""
