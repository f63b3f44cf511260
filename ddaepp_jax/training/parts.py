"""A batch that is taken in parts, one after the other, which takes less memory than at once.

Part i of n has every n-th example, from the i-th on. It so takes the same number of examples from
each device that holds a share of the batch, and no example moves. All random numbers are drawn for
the whole batch, so that they do not depend on the parts.
"""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from ddaepp_jax.objectives.passes import Pass

ARRAYS = ("x0", "noise", "level", "label", "augment_label")  # fields of a pass, by example


def mean(function: Callable[[dict[str, Pass]], Any], requests: dict[str, Pass], parts: int) -> Any:
    """Returns the mean over the parts of a function of the passes.

    Args:
      function: returns a tree of arrays.
      requests: the passes through the network by name.
      parts: number of parts, which divides the number of examples.
    """
    if parts == 1:
        return function(requests)

    def of_part(number: Array, arrays: Mapping[str, Mapping[str, Array]]) -> Any:
        passes = {
            name: dataclasses.replace(requests[name], **fields) for name, fields in arrays.items()
        }
        with _dropout_of_the_batch(number, parts):
            return function(passes)

    def add(total: Any, part: tuple[Array, Any]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, traced(*part)), None

    traced = jax.jit(of_part, inline=True)  # It is traced once, for shapes and in the scan.
    arrays = {
        name: {field: getattr(request, field) for field in ARRAYS}
        for name, request in requests.items()
    }
    xs = jnp.arange(parts), jax.tree.map(lambda array: _split(array, parts), arrays)
    shapes = jax.eval_shape(traced, *jax.tree.map(lambda array: array[0], xs))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, xs)
    return jax.tree.map(lambda leaf: leaf / parts, total)


def _split(array: Array, parts: int) -> Array:
    """Splits an array (B, ..) into (parts, B / parts, ..)."""
    return jnp.moveaxis(array.reshape(-1, parts, *array.shape[1:]), 1, 0)


def _dropout_of_the_batch(number: Array, parts: int) -> AbstractContextManager[None]:
    """Lets the part of a number drop out what it drops out in the whole batch."""

    def intercept(
        method: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        if not isinstance(module, nn.Dropout) or context.method_name != "__call__":
            return method(*args, **kwargs)
        (x,) = args
        whole = method(jnp.ones((len(x) * parts, *x.shape[1:]), x.dtype), **kwargs)
        whole = whole.reshape(len(x), parts, *x.shape[1:])
        kept = jax.lax.dynamic_index_in_dim(whole, number, axis=1, keepdims=False) != 0
        return jnp.where(kept, x / (1 - module.rate), jnp.zeros_like(x))

    return nn.intercept_methods(intercept)
