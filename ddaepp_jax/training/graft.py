"""Starting from another run: what both networks have is taken, what only this one has stays as
initialised.
"""

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
    """Refuse weights that don't fit the network's shapes; leaves that only one of the two has are
    fine.
    """
    given = _by_name(weights)
    for name, leaf in _by_name(network).items():
        if name in given and given[name].shape != leaf.shape:
            there = given[name].shape
            raise InputError(
                f"init_from: {name} has shape {there} there and {leaf.shape} here; the models differ"
            )


def graft(state: TrainState, weights: Any) -> tuple[TrainState, list[str]]:
    """A fresh state with ``weights`` (host arrays) in its network's places and shardings, in every
    average too.

    Returns:
      The state, and lines that say which leaves were not there and which were not used.
    """
    given, network = _by_name(weights), state.params["network"]
    own = _by_name(network)
    leaves = [
        parallel.put(given[name], leaf.sharding) if name in given else leaf
        for name, leaf in own.items()
    ]
    lines = []
    for what, names in (
        ("initialises", own.keys() - given.keys()),
        ("does not use", given.keys() - own.keys()),
    ):
        if names:
            first = sorted(names)[0]
            lines.append(
                f"init_from: the network {what} {first}{f' and {len(names) - 1} more' * (len(names) > 1)}"
            )
    params = {**state.params, "network": jax.tree.unflatten(jax.tree.structure(network), leaves)}
    return state.replace(
        params=params, ema={decay: jax.tree.map(jnp.copy, params) for decay in state.ema}
    ), lines
