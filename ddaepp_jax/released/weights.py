"""Conversion of a reference's tensors to the variables of our network.

Errors name the tensors that are missing, unknown or of the wrong shape.
"""

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from types import ModuleType
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.released.tensors import numbers

_SHOWN = 3  # names that an error lists


def variables(
    family: ModuleType,
    network: nn.Module,
    tensors: Mapping[str, np.ndarray],
    input_shape: tuple[int, int, int],
    timed: bool = True,
) -> dict[str, Any]:
    """Converts tensors, by the reference's names and in its layout, to ``{"params": ..}``.

    Args:
      family: module of the reference implementation, see ``ddaepp_jax.released``.
      network: our network.
      tensors: the reference's tensors; those that match the family's ``LEFT_OUT`` are ignored.
      input_shape: (H, W, C) of the network's input.
      timed: whether the network takes times beside the images, as diffusion networks do.

    Returns:
      The variables, in float32.

    Raises:
      InputError: a tensor is missing, unknown, has another shape, or holds numbers that are not
        finite or not floating.
    """
    for old, new in getattr(family, "RENAMED", {}).items():
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    flat, tree = jax.tree_util.tree_flatten_with_path(_shapes(network, input_shape, timed))
    leaves = [(tuple(key.key for key in keys), leaf.shape) for keys, leaf in flat]

    def tensor_names(path: tuple[str, ...], shape: tuple[int, ...]) -> list[str]:
        name = family.reference_name(network, path)
        return [name.format(i) for i in range(shape[0])] if "{}" in name else [name]

    def converted(name: str, path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
        tensor = numbers(tensors, name)
        try:
            arranged = family.arranged(network, path, tensor, shape)
        except (TypeError, ZeroDivisionError, einops.EinopsError):
            raise InputError(
                f"tensor {name}: has shape {tensor.shape}, which does not fit; "
                "check the kind and its arguments"
            ) from None
        return _in_flax_layout(arranged, path[-1], name, shape)

    def parameter(path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
        name = family.reference_name(network, path)
        if "{}" in name:  # one tensor for each block
            return np.stack(
                [converted(each, path, shape[1:]) for each in tensor_names(path, shape)]
            )
        return converted(name, path, shape)

    expected = {name for leaf in leaves for name in tensor_names(*leaf)}
    _check_names(expected, tensors, family.LEFT_OUT)
    return {"params": jax.tree.unflatten(tree, [parameter(*leaf) for leaf in leaves])}


@lru_cache(maxsize=16)
def _shapes(network: nn.Module, input_shape: tuple[int, int, int], timed: bool) -> Any:
    """Returns the tree of the parameters' shapes."""
    x = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    inputs = (x, t) if timed else (x,)
    return jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]


def _check_names(expected: set[str], names: Collection[str], left_out: Sequence[str]) -> None:
    """Refuses missing and unknown tensors; unknown ones that match ``left_out`` are ignored."""
    missing = [name for name in expected if name not in names]
    unknown = [
        name
        for name in names
        if name not in expected and not any(fnmatchcase(name, pattern) for pattern in left_out)
    ]
    for problem, wrong in (("are missing", missing), ("this network does not have", unknown)):
        if wrong:
            more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            raise InputError(
                f"tensors that {problem}: {', '.join(sorted(wrong)[:_SHOWN])}{more}; "
                "check the kind and its arguments"
            )


def _in_flax_layout(tensor: np.ndarray, leaf: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Transposes PyTorch's layout to Flax's.

    Convolutions (out, in, h, w) become (h, w, in, out), and linear layers (out, in) become
    (in, out).
    """
    order = tuple(range(len(shape)))
    if leaf == "kernel":
        order = {4: (2, 3, 1, 0), 2: (1, 0)}[len(shape)]
    expected = tuple(shape[axis] for axis in np.argsort(order))
    if tensor.shape != expected:
        raise InputError(
            f"tensor {name}: has shape {tensor.shape}, not {expected}; "
            "check the kind and its arguments"
        )
    return np.ascontiguousarray(tensor.transpose(order))
