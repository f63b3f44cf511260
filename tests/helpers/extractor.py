"""An extractor for tests: an untrained classifier of digits, which is quick to make."""

from pathlib import Path

import jax
import numpy as np

from ddaepp_jax.scoring import extractors
from ddaepp_jax.scoring.wide_resnet import WideResNet

CLASSIFIER = WideResNet(num_classes=10, depth=10, width=1)
SHAPE = (8, 8, 1)


def untrained_classifier(directory: Path, seed: int = 0) -> Path:
    """Writes ``CLASSIFIER`` to a directory, with weights that depend on the seed; returns it."""
    images = np.zeros((1, *SHAPE), np.float32)
    variables = jax.jit(CLASSIFIER.init)(jax.random.key(seed), images)
    extractors.save(directory, CLASSIFIER, variables["params"], {"accuracy": 10.0}, SHAPE)
    return directory
