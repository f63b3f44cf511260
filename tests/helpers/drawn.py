"""Fixed stand-ins for trained weights and for inputs, so that the golden files need not hold any.

A tensor is drawn from its name and shape alone. The raw bits come from ``numpy.random.PCG64``,
whose stream NumPy promises to keep; its ``Generator`` methods, which it may change, are not used.
Names and shapes are those of the reference's PyTorch ``state_dict``:
``in_blocks.0.attn.qkv.weight`` is ``(3 * dim, dim)``, a convolution is ``(out, in, height,
width)``. Draw in that layout, then transpose.
"""

import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def _uniform(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Numbers uniform in [-1, 1) that depend on the name alone, in row-major order of the shape."""
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(math.prod(shape))
    return ((raw >> np.uint64(11)) * 2.0**-52 - 1.0).reshape(shape)


def drawn(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The parameter of this name, in PyTorch's layout. With ``u`` uniform in [-1, 1):

    - position and label embeddings (``pos_embed``, ``label_emb.weight``): ``0.5 u``;
    - biases, and the means of batch norms: ``0.1 u``;
    - scales of norms (rank 1): ``1 + 0.1 u``; variances of batch norms: half that, as ReLUs halve
      the second moment;
    - other weights: ``sqrt(3 / fan_in) u``, of variance ``1 / fan_in``, where fan_in is the product
      of all dimensions but the first.
    """
    u = _uniform(name, shape)
    if name in ("pos_embed", "label_emb.weight"):
        value = 0.5 * u
    elif name.endswith((".bias", ".running_mean")):
        value = 0.1 * u
    elif name.endswith(".running_var"):
        value = 0.5 + 0.05 * u
    elif len(shape) == 1:
        value = 1.0 + 0.1 * u
    else:
        value = math.sqrt(3.0 / math.prod(shape[1:])) * u
    return value.astype(np.float32)


def drawn_inputs(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """An input of this name: uniform, of zero mean and unit variance."""
    return (math.sqrt(3.0) * _uniform(name, shape)).astype(np.float32)


def drawn_params(
    shapes: Mapping[str, Any],
    reference_name: Callable[[tuple[str, ...]], str],
    arranged: Callable[
        [tuple[str, ...], NDArray, tuple[int, ...]], NDArray
    ] = lambda path, tensor, shape: tensor,
    path: tuple[str, ...] = (),
) -> dict[str, Any]:
    """A Flax tree of parameters, each drawn by its reference name in PyTorch's layout,
    ``arranged``, then transposed.

    ``shapes`` is the tree of anything with a ``shape``; ``arranged`` brings a tensor's rows into
    our layer's order.
    """
    tree = {}
    for name, like in shapes.items():
        here = (*path, name)
        if isinstance(like, Mapping):
            tree[name] = drawn_params(like, reference_name, arranged, here)
            continue
        to_ours = (
            {2: (1, 0), 4: (2, 3, 1, 0)}[len(like.shape)]
            if name == "kernel"
            else range(len(like.shape))
        )
        shape = tuple(like.shape[i] for i in np.argsort(to_ours))
        tree[name] = np.transpose(
            arranged(here, drawn(reference_name(here), shape), like.shape), to_ours
        )
    return tree
