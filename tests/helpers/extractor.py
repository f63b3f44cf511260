"""An extractor for tests: a classifier of digits that was never trained, which takes no time to
make.
"""

from pathlib import Path

import jax
import numpy as np

from ddaepp_jax.scoring import extractors
from ddaepp_jax.scoring.wide_resnet import WideResNet

CLASSIFIER = WideResNet(num_classes=10, depth=10, width=1)
SHAPE = (8, 8, 1)


def untrained_classifier(directory: Path, seed: int = 0) -> Path:
    """``directory``, with ``CLASSIFIER`` in it; its weights differ by the seed."""
    params = jax.jit(CLASSIFIER.init)(jax.random.key(seed), np.zeros((1, *SHAPE), np.float32))[
        "params"
    ]
    extractors.save(directory, CLASSIFIER, params, {"accuracy": 10.0}, SHAPE)
    return directory
