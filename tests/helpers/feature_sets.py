"""Sets of features on which scores are tested, and the references' scores of them."""

import json
from pathlib import Path

import numpy as np
from helpers.drawn import drawn_inputs

SCORES = json.loads((Path(__file__).parents[1] / "golden" / "scores.json").read_text())
SIZES = {
    "small": (40, 50, 8),
    "medium": (500, 400, 64),
    "few": (20, 20, 64),
    "large": (3000, 2500, 2048),
}


def feature_set(name: str, n: int, dims: int) -> np.ndarray:
    """Draws features (n, dims) float64 that are correlated, unequal in variance, and not Gaussian.

    They are rectified mixtures of drawn numbers.
    """
    x = np.float64(drawn_inputs(f"{name}.x", (n, dims)))
    mix = np.float64(drawn_inputs(f"{name}.mix", (dims, dims)))
    return np.maximum(x @ mix / np.sqrt(dims) * np.geomspace(1, 0.1, dims) + 0.5, 0)


def real_and_fake(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Draws the two sets of a case of ``SIZES``."""
    real, fake, dims = SIZES[name]
    return feature_set(f"{name}.real", real, dims), feature_set(f"{name}.fake", fake, dims)
