"""Fixed random weights and inputs, so that the golden files need not store any.

A tensor depends on its name and shape alone. The raw bits come from ``numpy.random.PCG64``, whose
stream NumPy promises to keep; the methods of ``Generator`` are not used, as NumPy may change them.
Names and shapes are those of the reference's PyTorch ``state_dict``:
``in_blocks.0.attn.qkv.weight`` is ``(3 * dim, dim)``, a convolution is ``(out, in, height,
width)``. Draw a tensor in that layout, then transpose it.
"""

import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def _uniform(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Draws numbers uniform in [-1, 1) that depend on the name alone, in row-major order."""
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(math.prod(shape))
    return ((raw >> np.uint64(11)) * 2.0**-52 - 1.0).reshape(shape)


def drawn(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Draws the parameter with this name, in PyTorch's layout.

    With ``u`` uniform in [-1, 1), the values are

    - for position and label embeddings (``pos_embed``, ``label_emb.weight``): ``0.5 u``;
    - for biases and the means of batch norms: ``0.1 u``;
    - for scales of norms (rank 1): ``1 + 0.1 u``;
    - for variances of batch norms: half that, as ReLUs halve the second moment;
    - for other weights: ``sqrt(3 / fan_in) u``, with variance ``1 / fan_in``, where fan_in is the
      product of all dimensions but the first.
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
    """Draws the input with this name: uniform, with zero mean and unit variance."""
    return (math.sqrt(3.0) * _uniform(name, shape)).astype(np.float32)


def drawn_params(
    shapes: Mapping[str, Any],
    reference_name: Callable[[tuple[str, ...]], str],
    arranged: Callable[
        [tuple[str, ...], NDArray, tuple[int, ...]], NDArray
    ] = lambda path, tensor, shape: tensor,
    path: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Draws a Flax tree of parameters.

    Each parameter is drawn by its reference name in PyTorch's layout, arranged, then transposed.

    Args:
      shapes: tree whose leaves have a ``shape``.
      reference_name: maps a Flax path to the reference's name.
      arranged: maps a Flax path, a tensor, and the shape of our parameter to the tensor with its
        rows in our layer's order.
      path: Flax path of the tree.
    """
    tree = {}
    for name, leaf in shapes.items():
        here = (*path, name)
        if isinstance(leaf, Mapping):
            tree[name] = drawn_params(leaf, reference_name, arranged, here)
            continue
        order = range(len(leaf.shape))
        if name == "kernel":
            order = {2: (1, 0), 4: (2, 3, 1, 0)}[len(leaf.shape)]
        shape = tuple(leaf.shape[i] for i in np.argsort(order))
        tensor = drawn(reference_name(here), shape)
        tree[name] = np.transpose(arranged(here, tensor, leaf.shape), order)
    return tree
