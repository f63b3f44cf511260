"""What features are like, without labels: how far views of an image agree, and how much of their
space images fill.

Pure functions of features (N, D), in float64. A feature of zeros has no direction: normalised, it
stays zero.
"""

from collections.abc import Mapping

import numpy as np

PIXELS = "pixels"  # The name of raw pixels among the layers.
FEWEST = 10  # images: the rank of fewer is small whatever they are
BLOCK = 1024  # images whose distances to the others are held at once
ROUNDING = float(np.finfo(np.float32).eps)  # of features, relative

# Features below have collapsed. Untrained networks stay above: of tiny U-ViTs, UNets and DiTs on
# digits the least are a spread of 0.06 and a rank of 3.6. Both are DiTs', which start as a linear
# map of the mean patch: where a patch is one pixel, their rank is at most the number of channels,
# of CIFAR-10's images 2.4.
LEAST_SPREAD = 1e-3
LEAST_RANK = 2.0


def _unit(z: np.ndarray) -> np.ndarray:
    """Rows of length 1, or 0."""
    z = z.astype(np.float64)
    length = np.linalg.norm(z, axis=1, keepdims=True)
    return z / np.where(length > 0, length, 1)


def alignment(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared distance of the normalised features (N, D) of two views of the same images.

    0: all views agree; 2: at right angles; 4: opposite. Wang and Isola (arXiv 2005.10242), section
      4.1, alpha = 2.
    """
    return float(np.square(_unit(a) - _unit(b)).sum(axis=1).mean())


def uniformity(z: np.ndarray) -> float:
    """Log of the mean over pairs of images of ``exp(-2 |z_i - z_j|^2)``, of normalised features (N,
    D).

    From -8 (opposite pairs; about -4 where many spread evenly) to 0, where all have one direction,
    or N is 1. Wang and Isola (arXiv 2005.10242), section 4.1, t = 2.
    """
    z, total = _unit(z), 0.0
    if len(z) < 2:
        return 0.0
    square = np.square(z).sum(axis=1)
    for start in range(0, len(z), BLOCK):
        rows = slice(start, start + BLOCK)
        distance = square[rows, None] + square[None, start:] - 2 * z[rows] @ z[start:].T
        total += np.triu(np.exp(-2 * np.maximum(distance, 0)), k=1).sum()  # i < j
    return float(np.log(total / (len(z) * (len(z) - 1) / 2)))


def effective_rank(z: np.ndarray) -> float:
    """Exponential of the entropy of the singular values of features (N, D), their sum scaled to 1.

    From 1, where all lie on a line, to min(N - 1, D), where none of these directions is preferred;
    0 for constant features. Roy and Vetterli (EUSIPCO 2007); as RankMe (arXiv 2210.02885), but of
    the centred features: a mean that all images share tells none from another, and would count as a
      direction, mostly as the greatest.

    The singular values are roots of the eigenvalues of the smaller Gram matrix, several times
    faster than a decomposition of the features. That errs by 3e-8 of the greatest; what lies below
    the rounding of float32 features, 1.2e-7 of their norm, is left out, and the error with it.
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
    """Standard deviation over images of the normalised features (N, D), mean over dimensions, times
    sqrt(D).

    1: as wide as the sphere; 0: all images have one direction. SimSiam (arXiv 2011.10566), section
      4.1, compares it
    with 1 / sqrt(D).
    """
    z = _unit(z)
    return float(z.std(axis=0).mean() * np.sqrt(z.shape[1]))


def diagnose(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """All four, of features (N, D) of two views of the same images; but for the alignment, of the
    first view.
    """
    return {
        "alignment": alignment(a, b),
        "uniformity": uniformity(a),
        "effective_rank": effective_rank(a),
        "spread": spread(a),
    }


def collapse(values: Mapping[str, float]) -> str:
    """What ``diagnose``'s values say of a collapse, in plain words; "" where there is none.

    It is complete where the spread is below 0.001: images hardly differ. It is dimensional where
    the effective rank is 2 or less: they differ along a line or two.
    """
    if values["spread"] < LEAST_SPREAD:
        return f"the features have collapsed: all images have nearly the same (spread {values['spread']:.2g})"
    if values["effective_rank"] <= LEAST_RANK:
        rank = f"effective rank {values['effective_rank']:.2f}"
        return f"the features have collapsed: images differ along a direction or two ({rank})"
    return ""
