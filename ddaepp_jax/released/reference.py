"""Loads a reference implementation's weights as our network and its variables."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from flax import linen as nn

from ddaepp_jax.base.choice import choose
from ddaepp_jax.base.errors import InputError, shown
from ddaepp_jax.released import (
    KINDS,
    NETWORKS,
    autoencoder_kl,
    ddae_unet,
    dit,
    inception_fid,
    lightningdit,
    taesd,
    u_vit,
    va_vae,
    weights,
)
from ddaepp_jax.released.arguments import checked

FAMILIES: dict[str, ModuleType] = dict(
    zip(
        KINDS,
        (u_vit, ddae_unet, dit, lightningdit, autoencoder_kl, va_vae, taesd, inception_fid),
        strict=True,
    )
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
      InputError: as for ``network_of``; or ``state_dict`` is no mapping; or a tensor is missing,
        unknown, has another shape, or its numbers are not finite or not floating.
    """
    network, input_shape = network_of(kind, **arguments)
    if not isinstance(state_dict, Mapping):
        raise InputError(
            f"state_dict: {shown(state_dict)} is not a mapping of names to tensors; give one, e.g. "
            "model.state_dict()"
        )
    timed = kind in NETWORKS
    return network, weights.variables(FAMILIES[kind], network, state_dict, input_shape, timed)


def network_of(kind: str, **arguments: Any) -> tuple[nn.Module, tuple[int, int, int]]:
    """Builds our module by the arguments of the reference's class.

    Returns:
      The module, and the (H, W, C) of its input.

    Raises:
      InputError: there is no such kind or argument, or its value is wrong by itself or beside the
        others.
    """
    family = choose("kind", kind, FAMILIES)
    reference = checked(kind, family.Arguments, arguments)
    network = reference.network()
    if kind in NETWORKS and (wrong := next(network.problems(), None)):
        raise InputError(f"{kind}: {wrong}; give other arguments")
    return network, reference.input_shape
