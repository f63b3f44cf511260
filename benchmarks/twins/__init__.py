"""Plain PyTorch networks, written from the papers, beside which this package is measured.

Their parameters have the names of the reference implementations, so ``load_reference`` brings a
twin's weights into our network.
"""

from typing import Any

import torch
from flax import linen

from ddaepp_jax.models.dit import DiT
from ddaepp_jax.models.unet import UNet
from ddaepp_jax.models.uvit import UViT
from ddaepp_jax.released.reference import load_reference
from twins import dit, unet, uvit

TWINS = {"u-vit": uvit.UViT, "ddae-unet": unet.UNet, "lightningdit": dit.DiT}


def make(network: linen.Module, image_shape: tuple[int, int, int]) -> torch.nn.Module:
    """Makes the twin of one of our networks, with random weights, always the same.

    Args:
      network: our network, without labels, self-conditioning and augmentation vector.
      image_shape: (H, W, C).

    Raises:
      ValueError: the network has no twin.
    """
    kind, arguments = _arguments(network, image_shape)
    torch.manual_seed(0)
    return TWINS[kind](**arguments)


def as_ours(
    network: linen.Module, image_shape: tuple[int, int, int], tensors: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """Returns tensors by a twin's names, its weights or their gradients, as our parameters.

    Raises:
      ValueError: the network has a part that its twin lacks.
    """
    kind, arguments = _arguments(network, image_shape)
    if kind == "lightningdit":
        options = ("use_swiglu", "use_rope", "use_rmsnorm")
        arguments |= dict.fromkeys(options, arguments.pop("lightning")) | {"num_classes": 0}
    module, variables = load_reference(kind, tensors, **arguments)
    fields = ("name", "parent", "bottleneck", "dtype", "attention", "scan", "swiglu_multiple")
    for field in module.__dataclass_fields__:
        if field not in fields and getattr(module, field) != getattr(network, field):
            raise ValueError(f"{field}: {getattr(network, field)}, but the twin has none")
    return variables["params"]


def _arguments(
    network: linen.Module, image_shape: tuple[int, int, int]
) -> tuple[str, dict[str, Any]]:
    """Returns the kind of a network for ``load_reference``, and the arguments of its twin."""
    height, _, channels = image_shape
    if isinstance(network, UViT):
        return (
            "u-vit",
            dict(
                img_size=height,
                patch_size=network.patch_size,
                in_chans=channels,
                embed_dim=network.width,
                depth=network.depth,
                num_heads=network.num_heads,
                mlp_ratio=network.mlp_ratio,
            ),
        )
    if isinstance(network, UNet):
        return (
            "ddae-unet",
            dict(
                image_shape=(channels, *image_shape[:2]),
                n_channels=network.channels,
                ch_mults=network.mults,
                is_attn=network.attend,
                dropout=network.dropout,
                n_blocks=network.blocks,
            ),
        )
    if isinstance(network, DiT):
        return (
            "lightningdit",
            dict(
                input_size=height,
                patch_size=network.patch_size,
                in_channels=channels,
                hidden_size=network.width,
                depth=network.depth,
                num_heads=network.num_heads,
                mlp_ratio=network.mlp_ratio,
                lightning=network.rope,
            ),
        )
    raise ValueError(f"{type(network).__name__}: has no twin")
