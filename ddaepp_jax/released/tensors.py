"""Facts and numbers that are read off the tensors of a state dict.

Errors name the tensor. A tensor is an array of NumPy or JAX, or a CPU tensor of PyTorch.
"""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import jax.numpy as jnp
import numpy as np

from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.base.finite import check_finite


def shape_of(tensors: Mapping[str, Any], name: str, axes: int) -> tuple[int, ...]:
    """Returns the shape of a tensor that has ``axes`` axes.

    Raises:
      InputError: the tensor is missing, has another number of axes, or holds no numbers.
    """
    if name not in tensors:
        raise InputError(f"tensors that are missing: {name}; check the kind and the file")
    shape = tuple(tensors[name].shape)
    if len(shape) != axes or 0 in shape:
        raise InputError(
            f"tensor {name}: has shape {shape}, not {axes} axes of at least 1; "
            "check the kind and the file"
        )
    return shape


def has(tensors: Mapping[str, Any], pattern: str) -> bool:
    """Whether the name of a tensor matches a pattern, e.g. ``blocks.*.norm1.*``."""
    return any(fnmatchcase(name, pattern) for name in tensors)


def blocks(tensors: Mapping[str, Any], prefix: str) -> int:
    """Returns the number of blocks: of the numbers i in names that begin with ``<prefix>.<i>.``"""
    matches = (re.match(rf"{re.escape(prefix)}\.(\d+)\.", name) for name in tensors)
    return len({match[1] for match in matches if match})


def numbers(tensors: Mapping[str, Any], name: str) -> np.ndarray:
    """Returns a tensor's numbers in float32.

    Raises:
      InputError: they are not floating-point numbers, as quantised weights are not, or not finite;
        or the tensor is sparse, or of another class that NumPy cannot read.
    """
    tensor = tensors[name]
    try:
        if hasattr(tensor, "is_floating_point"):  # PyTorch's, whose bfloat16 NumPy cannot read
            floating = tensor.is_floating_point()
            tensor = tensor.detach().float().numpy() if floating else tensor
        else:
            tensor = np.asarray(tensor)
            floating = jnp.issubdtype(tensor.dtype, jnp.floating)
    except (TypeError, RuntimeError) as error:
        raise InputError(
            f"tensor {name}: cannot be read ({first_line(error)}); give a dense tensor in memory"
        ) from None
    if not floating:
        raise InputError(
            f"tensor {name}: holds {tensor.dtype}, not floating-point numbers; give the weights "
            "as they were before quantisation"
        )
    with np.errstate(over="ignore"):  # A number beyond float32 becomes infinite, and is refused.
        array = np.asarray(tensor, np.float32)
    check_finite({name: array}, "tensors", "give an undamaged file or another checkpoint")
    return array
