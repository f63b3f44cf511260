"""Scaling of features to mean 0 and variance 1 in each channel."""

from collections.abc import Mapping

import numpy as np
from jax import Array

CHUNK = 4096  # images that are summed at once

# {layer: mean (C,) and standard deviation (C,)}; an empty mapping leaves features as they are.
Scales = Mapping[str, tuple[Array, Array]]


def standard_scale(features: Mapping[str, np.ndarray]) -> Scales:
    """Computes the mean and standard deviation of features {layer: (N, C)}, in float64.

    Features may be memory-mapped. A channel that is constant gets the deviation 1.
    """
    scales = {}
    for layer, feature in features.items():
        chunks = [feature[start : start + CHUNK] for start in range(0, len(feature), CHUNK)]
        mean = sum(chunk.sum(axis=0, dtype=np.float64) for chunk in chunks) / len(feature)
        variance = sum(np.square(chunk - mean).sum(axis=0) for chunk in chunks) / len(feature)
        deviation = np.sqrt(variance)
        constant = deviation <= 1e-6 * np.abs(mean) + 1e-12
        scales[layer] = (
            mean.astype(np.float32),
            np.where(constant, 1, deviation).astype(np.float32),
        )
    return scales


def scaled(features: Mapping[str, Array], scales: Scales) -> dict[str, Array]:
    """Subtracts the mean from features {layer: (B, C)} and divides by the deviation."""
    if not scales:
        return dict(features)
    standardised = {}
    for layer, feature in features.items():
        mean, deviation = scales[layer]
        standardised[layer] = (feature - mean[None]) / deviation[None]
    return standardised
