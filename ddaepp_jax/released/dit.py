"""Weights of DiT (facebookresearch/DiT, models.py): its arguments, and its names of parameters."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

import einops
import numpy as np

from ddaepp_jax.models.dit import DiT, block_names

MARKS = (
    "x_embedder.proj.weight",
    "final_layer.linear.weight",
    "blocks.0.mlp.fc1.weight",
)  # that tell such a network
LEFT_OUT = ()  # tensors of a state_dict that are functions of the shape
# The parts by our path; the place of a block's number is left open.
PARTS = {
    "patch_embed": "x_embedder.proj",
    "time_embed_1": "t_embedder.mlp.0",
    "time_embed_2": "t_embedder.mlp.2",
    "label_embed": "y_embedder.embedding_table",
    "final_norm": "final_layer.norm_final",
    "final_modulation": "final_layer.adaLN_modulation.1",
    "final_linear": "final_layer.linear",
    "blocks.modulation": "blocks.{}.adaLN_modulation.1",
}


def module(
    input_size: int = 32,
    patch_size: int = 2,
    in_channels: int = 4,
    hidden_size: int = 1152,
    depth: int = 28,
    num_heads: int = 16,
    mlp_ratio: float = 4.0,
    class_dropout_prob: float = 0.1,
    num_classes: int = 1000,
    learn_sigma: bool = True,
) -> DiT:
    """Our network for the reference class's arguments; ``num_classes`` leaves the null class out.

    Without ``class_dropout_prob`` the reference has no null class; ours has one, whose embedding is
    zero. Without ``learn_sigma`` the variance's half of such weights is left out.
    """
    del (
        input_size,
        in_channels,
        class_dropout_prob,
    )  # of the image, see ``image_shape``, and of the training
    return DiT(
        patch_size=patch_size,
        width=hidden_size,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        learn_sigma=learn_sigma,
        num_classes=num_classes,
        bottleneck=block_names(depth)[(depth - 1) // 2],
    )


def image_shape(input_size: int = 32, in_channels: int = 4, **others: Any) -> tuple[int, int, int]:
    """(H, W, C) of the images or latents."""
    del others
    return input_size, input_size, in_channels


def arguments(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The reference class's arguments, read off its tensors."""
    return sizes(tensors) | dict(
        mlp_ratio=len(tensors["blocks.0.mlp.fc1.weight"]) / sizes(tensors)["hidden_size"]
    )


def sizes(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The arguments that a LightningDiT has too, but for the MLP's.

    Heads are 64 wide, in XL (1152) 72, as in all that are released.
    """
    width, channels, patch, _ = tensors["x_embedder.proj.weight"].shape
    depth = sum(
        name.startswith("blocks.") and name.endswith(".attn.qkv.weight") for name in tensors
    )
    head = 72 if width == 1152 else 64
    return dict(
        input_size=isqrt(tensors["pos_embed"].shape[1]) * patch,
        patch_size=patch,
        in_channels=channels,
        hidden_size=width,
        depth=depth,
        num_heads=max(1, width // head),
        num_classes=len(tensors["y_embedder.embedding_table.weight"]) - 1,
        learn_sigma=len(tensors["final_layer.linear.weight"]) == 2 * patch * patch * channels,
    )


def reference_name(module: DiT, path: tuple[str, ...]) -> str:
    """A Flax path as the reference's state_dict spells it, ``{}`` in place of a block's number.

    ``blocks, attn, qkv, kernel`` is ``blocks.{}.attn.qkv.weight``.
    """
    del module
    *modules, leaf = path
    if not modules:
        return leaf  # pos_embed
    name = ".".join(modules)
    part = PARTS.get(name) or name.replace("blocks.", "blocks.{}.")
    return f"{part}.{'bias' if leaf == 'bias' else 'weight'}"


def arranged(
    module: DiT, path: tuple[str, ...], tensor: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """The reference's tensor, in its layout: patches in our order; what only one of the two has,
    dropped or zero.
    """
    if path == ("patch_embed", "kernel"):
        return einops.rearrange(tensor, "d c p q -> d (p q c)")
    if (
        path[0] == "final_linear" and len(tensor) == 2 * shape[-1]
    ):  # a patch's (p, q, 2 C): the mean, the variance
        return einops.rearrange(
            tensor, "(pq two c) ... -> two (pq c) ...", two=2, pq=module.patch_size**2
        )[0]
    if path[0] == "label_embed" and len(tensor) == shape[0] - 1:
        return np.concatenate([tensor, np.zeros_like(tensor[:1])])
    return tensor
