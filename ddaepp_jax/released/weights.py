"""A reference's tensors as the variables of our module. What is missing, left over or misshapen is
named.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ddaepp_jax.base.errors import InputError


def flattened(checkpoint: Any, prefix: str = "") -> dict[str, Any]:
    """The tensors of a file's nested dictionaries by their dotted names; numbers and other things
    are left out.
    """
    if isinstance(checkpoint, Mapping):
        parts = [flattened(value, f"{prefix}{name}.") for name, value in checkpoint.items()]
        return {name: tensor for part in parts for name, tensor in part.items()}
    return {prefix.removesuffix("."): checkpoint} if hasattr(checkpoint, "shape") else {}


def prefix_of(names: Sequence[str], marks: Sequence[str]) -> str:
    """What stands before a network's own names: wrappers ("module."), the file's dictionaries
    ("EMA.ema_model.").

    Args:
      names: of a file's tensors.
      marks: names that the network is known by.

    Raises:
      InputError: no network of this kind, or several with nothing to tell the averaged one.
    """
    ends = (
        (name, mark)
        for name in names
        for mark in marks
        if name == mark or name.endswith(f".{mark}")
    )
    found = Counter(name.removesuffix(mark) for name, mark in ends)
    whole = sorted(prefix for prefix, count in found.items() if count == len(marks))
    if not whole:
        near = ", ".join(sorted(names)[:3])
        raise InputError(
            f"no tensors {' and '.join(marks)}: another kind of network? There is {near}, .."
        )
    averaged = [prefix for prefix in whole if "ema" in prefix.lower() and "online" not in prefix]
    chosen = averaged if len(whole) > 1 else whole
    if len(chosen) != 1:
        raise InputError(
            f"several networks: their names begin with {', '.join(map(repr, whole))}; choose by --prefix"
        )
    return chosen[0]


def variables(
    family: ModuleType,
    module: nn.Module,
    tensors: Mapping[str, np.ndarray],
    image_shape: tuple[int, int, int],
    timed: bool = True,
) -> dict[str, Any]:
    """``{"params": ..}`` of ``module`` from tensors by the reference's names, in its layout;
    float32.

    Args:
      family: one of the modules of ``ddaepp_jax.released``; tensors that match its ``LEFT_OUT`` may
        be there.
      timed: whether the module takes times beside the images, as networks that denoise do.

    Raises:
      InputError: a tensor is missing, not used, or of another shape.
    """
    x, t = (
        jax.ShapeDtypeStruct((1, *image_shape), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.float32),
    )
    shapes = jax.eval_shape(module.init, jax.random.key(0), *((x, t) if timed else (x,)))["params"]
    paths, tree = jax.tree_util.tree_flatten_with_path(shapes)
    leaves = [(tuple(key.key for key in path), leaf.shape) for path, leaf in paths]
    asked = {
        name
        for path, shape in leaves
        for name in _of_blocks(family.reference_name(module, path), shape)
    }
    _name("are missing", [name for name in asked if name not in tensors])
    unasked = [name for name in tensors if name not in asked]
    left_out = {
        name for name in unasked for pattern in family.LEFT_OUT if fnmatchcase(name, pattern)
    }
    _name("are not this network's", [name for name in unasked if name not in left_out])

    def placed(name: str, path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
        tensor = np.asarray(tensors[name], np.float32)
        return _placed(family.arranged(module, path, tensor, shape), path[-1], name, shape)

    def leaf(path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
        name = family.reference_name(module, path)
        if "{}" in name:
            return np.stack([placed(each, path, shape[1:]) for each in _of_blocks(name, shape)])
        return placed(name, path, shape)

    return {"params": jax.tree.unflatten(tree, [leaf(path, shape) for path, shape in leaves])}


def _of_blocks(name: str, shape: tuple[int, ...]) -> list[str]:
    """The reference's names for a leaf: one, or for a stack of blocks' parameters, with ``{}`` in
    it, one a block.
    """
    return [name.format(i) for i in range(shape[0])] if "{}" in name else [name]


def _name(what: str, names: Sequence[str]) -> None:
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise InputError(f"tensors that {what}: {', '.join(sorted(names)[:3])}{more}")


def _placed(tensor: np.ndarray, leaf: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """In Flax's layout: convolutions (out, in, h, w) as (h, w, in, out), linear layers (out, in) as
    (in, out).
    """
    order = {4: (2, 3, 1, 0), 2: (1, 0)}.get(tensor.ndim) if leaf == "kernel" else None
    placed = tensor if order is None else tensor.transpose(order)
    if placed.shape != shape:
        wanted = (
            shape
            if order is None
            else tuple(shape[order.index(axis)] for axis in range(len(shape)))
        )
        raise InputError(f"tensor {name}: of shape {tensor.shape}, not {wanted}")
    return np.ascontiguousarray(placed)
