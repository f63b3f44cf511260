"""Weights of the Inception-v3 of FID (mseitzer/pytorch-fid, inception.py; torch-fidelity has the
same names).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ddaepp_jax.scoring.inception import SIZE, Inception

URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
DIGEST = "6726825d"  # that its SHA-256 begins with

MARKS = (
    "Conv2d_1a_3x3.conv.weight",
    "Mixed_7c.branch_pool.bn.running_var",
    "fc.weight",
)  # that tell such a network
LEFT_OUT = (
    "*.num_batches_tracked",
    "AuxLogits.*",
)  # of the training: a count, and a second classifier
LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def module(num_classes: int = 1008) -> Inception:
    """Our network, with pytorch-fid's resizing; ``clone(resizing="tensorflow1")`` has the other
    evaluators'.

    torchvision's own weights, of 1000 classes, have the same names, but their network's pools are
    others.
    """
    return Inception(num_classes=num_classes)


def image_shape(**others: Any) -> tuple[int, int, int]:
    """(H, W, C) that the images are resized to."""
    del others
    return SIZE, SIZE, 3


def arguments(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The arguments of ``module``, read off the tensors."""
    return dict(num_classes=len(tensors["fc.weight"]))


def reference_name(module: Inception, path: tuple[str, ...]) -> str:
    """A Flax path as the reference's state_dict spells it.

    ``Mixed_5b, branch1x1, bn, mean`` is ``Mixed_5b.branch1x1.bn.running_mean``.
    """
    del module
    *modules, leaf = path
    return ".".join([*modules, LEAVES.get(leaf, leaf)])


def arranged(
    module: Inception, path: tuple[str, ...], tensor: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """The reference's tensor, in its layout, with its rows in our order: as it is."""
    del module, path, shape
    return tensor
