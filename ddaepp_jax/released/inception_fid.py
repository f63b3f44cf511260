"""Weights of FID's Inception-v3 (mseitzer/pytorch-fid, inception.py).

torch-fidelity uses the same names.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ddaepp_jax.released.arguments import Size, arguments_of_reference
from ddaepp_jax.released.tensors import shape_of
from ddaepp_jax.scoring.inception import SIZE, Inception

URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
)
DIGEST = "6726825d"  # first digits of the file's SHA-256

MARKS = ("Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.bn.running_var", "fc.weight")
LEFT_OUT = ("*.num_batches_tracked", "AuxLogits.*")  # a count and a classifier used in training
LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


@arguments_of_reference()
class Arguments:
    """Arguments of pytorch-fid's Inception.

    Attributes:
      num_classes: number of classes: 1008 in FID's weights. torchvision's weights have 1000 and the
        same names, but belong to a network that pools differently: their features do not give FID.
    """

    num_classes: Size = 1008

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C) to which the network resizes its images."""
        return SIZE, SIZE, 3

    def network(self) -> Inception:
        """Builds this package's ``Inception`` with these arguments and pytorch-fid's resizing.

        ``clone(resizing="tensorflow1")`` has the resizing of other evaluators.
        """
        return Inception(num_classes=self.num_classes)


def arguments(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Reads the arguments off the tensors."""
    return dict(num_classes=shape_of(tensors, "fc.weight", 2)[0])


def reference_name(network: Inception, path: tuple[str, ...]) -> str:
    """Returns the reference's name of a parameter.

    ``Mixed_5b, branch1x1, bn, mean`` is ``Mixed_5b.branch1x1.bn.running_mean``.
    """
    del network
    *modules, leaf = path
    return ".".join([*modules, LEAVES.get(leaf, leaf)])


def arranged(
    network: Inception, path: tuple[str, ...], tensor: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Returns the tensor as it is: its rows are in our order."""
    del network, path, shape
    return tensor
