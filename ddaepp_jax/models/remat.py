"""What a block keeps of its forward pass for the backward pass, which computes the rest again."""

from collections.abc import Callable
from typing import Any

import jax

from ddaepp_jax.base.choice import choose

_JAX = jax.checkpoint_policies

# JAX's policies by name, from the most memory to the least. ``dots_saveable`` keeps the results of
# matrix products, ``dots_with_no_batch_dims_saveable`` those of products with parameters, without
# attention's. None: the backward pass computes nothing again.
POLICIES: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "dots_saveable": _JAX.dots_saveable,
    "dots_with_no_batch_dims_saveable": _JAX.dots_with_no_batch_dims_saveable,
    "block": _JAX.nothing_saveable,
}


def policy(remat: str) -> Callable[..., Any] | None:
    """Returns the policy of a network's ``remat``; None: nothing is computed again.

    Raises:
      InputError: there is no such policy.
    """
    return choose("model.remat", remat, POLICIES)
