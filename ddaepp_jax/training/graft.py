"""Starts a run from the weights of another one."""

from typing import Any

import jax
import jax.numpy as jnp

from ddaepp_jax.base import parallel
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.training import sharding
from ddaepp_jax.training.step import TrainState


def _by_name(tree: Any) -> dict[str, Any]:
    return dict(zip(sharding.path_names(tree), jax.tree.leaves(tree), strict=True))


def check(network: Any, weights: Any) -> None:
    """Checks that the leaves which both trees have agree in shape.

    Args:
      network: parameters of the network, or their shapes.
      weights: parameters to start from.

    Raises:
      InputError: a leaf has another shape.
    """
    leaves = _by_name(weights)
    for name, leaf in _by_name(network).items():
        if name in leaves and leaves[name].shape != leaf.shape:
            raise InputError(
                f"init_from: {name} has shape {leaves[name].shape} in that run and {leaf.shape} in "
                "this one; start from a run of the same model"
            )


def graft(state: TrainState, weights: Any) -> tuple[TrainState, list[str]]:
    """Puts weights into the network of a fresh state, and into each of its averages.

    Leaves that only the network has keep their initial values.

    Args:
      weights: host arrays; the state's shardings place them.

    Returns:
      The state, and lines that tell which leaves were missing and which were not used.
    """
    leaves = _by_name(weights)
    network = state.params["network"]
    own = _by_name(network)
    grafted = [
        parallel.put(leaves[name], leaf.sharding) if name in leaves else leaf
        for name, leaf in own.items()
    ]
    params = {**state.params, "network": jax.tree.unflatten(jax.tree.structure(network), grafted)}
    averages = {name: jax.tree.map(jnp.copy, params) for name in state.ema}
    lines = []
    if missing := own.keys() - leaves.keys():
        lines.append(f"init_from: the network initialises {_listed(missing)}")
    if unused := leaves.keys() - own.keys():
        lines.append(f"init_from: the network does not use {_listed(unused)}")
    return state.replace(params=params, ema=averages), lines


def _listed(names: set[str]) -> str:
    """Returns the first name, and the number of the others."""
    first = min(names)
    return first if len(names) == 1 else f"{first} and {len(names) - 1} more"
