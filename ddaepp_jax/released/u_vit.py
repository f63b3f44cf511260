"""Weights of U-ViT (baofff/U-ViT, libs/uvit.py): its arguments, and its names of parameters."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

import numpy as np

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.models.uvit import UViT

MARKS = (
    "pos_embed",
    "patch_embed.proj.weight",
    "mid_block.mlp.fc1.weight",
)  # names that tell such a network
LEFT_OUT = ()  # tensors of a state_dict that are functions of the shape
MODULES = {
    "patch_embed": "patch_embed.proj",
    "time_embed_1": "time_embed.0",
    "time_embed_2": "time_embed.2",
    "label_embed": "label_emb",
    "mid": "mid_block",
    "final_conv": "final_layer",
}


def module(
    img_size: int = 224,
    patch_size: int = 16,
    in_chans: int = 3,
    embed_dim: int = 768,
    depth: int = 12,
    num_heads: int = 12,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = False,
    qk_scale: float | None = None,
    mlp_time_embed: bool = False,
    num_classes: int = -1,
    use_checkpoint: bool = False,
    conv: bool = True,
    skip: bool = True,
) -> UViT:
    """Our network for the reference class's arguments; ``num_classes`` counts the table's rows, the
    null one included.

    Raises:
      InputError: a ``qk_scale`` (the reference's fast attention ignores it, as no released network
        has one).
    """
    del img_size, in_chans  # of the image, see ``image_shape``
    if qk_scale is not None:
        raise InputError(
            f"qk_scale: {qk_scale} is not supported; attention scales by 1 / sqrt(head width)"
        )
    return UViT(
        patch_size=patch_size,
        width=embed_dim,
        depth=depth // 2 * 2,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        qkv_bias=qkv_bias,
        num_classes=max(num_classes - 1, 0),
        mlp_time_embed=mlp_time_embed,
        skip=skip,
        conv=conv,
        remat=use_checkpoint,
    )


def image_shape(img_size: int = 224, in_chans: int = 3, **others: Any) -> tuple[int, int, int]:
    """(H, W, C) of the images."""
    del others
    return img_size, img_size, in_chans


def arguments(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The reference class's arguments, read off its tensors; heads are 64 wide, as in all that are
    released.
    """
    width, channels, patch, _ = tensors["patch_embed.proj.weight"].shape
    rows = len(tensors["label_emb.weight"]) if "label_emb.weight" in tensors else -1
    patches = tensors["pos_embed"].shape[1] - (2 if rows > 0 else 1)
    return dict(
        img_size=isqrt(patches) * patch,
        patch_size=patch,
        in_chans=channels,
        embed_dim=width,
        depth=2
        * sum(
            name.startswith("in_blocks.") and name.endswith(".attn.qkv.weight") for name in tensors
        ),
        num_heads=max(1, width // 64),
        mlp_ratio=len(tensors["mid_block.mlp.fc1.weight"]) / width,
        qkv_bias="mid_block.attn.qkv.bias" in tensors,
        mlp_time_embed="time_embed.0.weight" in tensors,
        num_classes=rows,
        conv="final_layer.weight" in tensors,
        skip="out_blocks.0.skip_linear.weight" in tensors,
    )


def reference_name(module: UViT, path: tuple[str, ...]) -> str:
    """A Flax path as the reference's state_dict spells it: ``in_1, norm1, bias`` is
    ``in_blocks.0.norm1.bias``.
    """
    del module
    *modules, leaf = path
    parts = []
    for name in modules:
        kind, _, number = name.partition("_")
        parts.append(
            f"{kind}_blocks.{int(number) - 1}" if kind in ("in", "out") else MODULES.get(name, name)
        )
    return ".".join(
        [*parts, {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(leaf, leaf)]
    )


def arranged(
    module: UViT, path: tuple[str, ...], tensor: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """The reference's tensor, in its layout, with its rows in our order: as it is."""
    del module, path, shape
    return tensor
