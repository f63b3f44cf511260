"""Loads a reference implementation's weights as our network and its variables."""

import dataclasses
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from flax import linen as nn

from ddaepp_jax.base.choice import choose
from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.released import (
    KINDS,
    NETWORKS,
    ddae_unet,
    dit,
    inception_fid,
    lightningdit,
    u_vit,
    weights,
)

FAMILIES: dict[str, ModuleType] = dict(
    zip(KINDS, (u_vit, ddae_unet, dit, lightningdit, inception_fid), strict=True)
)


def load_reference(
    kind: str, state_dict: Mapping[str, Any], **arguments: Any
) -> tuple[nn.Module, dict[str, Any]]:
    """Loads a reference implementation's weights.

    Args:
      kind: one of ``FAMILIES``.
      state_dict: the reference's ``state_dict`` of NumPy arrays or CPU tensors, without prefixes.
      arguments: arguments of the reference's class, under its own names and with its own defaults.

    Returns:
      Our module and its variables, which give the reference's outputs to float32 rounding.

    Raises:
      InputError: there is no such kind or argument, or a tensor is missing, unknown, or has another
        shape.
    """
    family = choose("kind", kind, FAMILIES)
    try:
        reference = family.Arguments(**arguments)
        network = reference.network()
        input_shape = reference.input_shape
    except TypeError as error:
        names = ", ".join(field.name for field in dataclasses.fields(family.Arguments))
        raise InputError(f"{kind}: {first_line(error)}; its arguments are {names}") from None
    timed = kind in NETWORKS
    return network, weights.variables(family, network, state_dict, input_shape, timed)
