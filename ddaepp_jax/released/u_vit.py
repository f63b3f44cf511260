"""Weights of U-ViT (baofff/U-ViT, libs/uvit.py)."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

import numpy as np

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.models.uvit import UViT
from ddaepp_jax.released.arguments import Count, Ratio, Size, arguments_of_reference
from ddaepp_jax.released.tensors import blocks, has, shape_of

MARKS = ("pos_embed", "patch_embed.proj.weight", "mid_block.mlp.fc1.weight")
LEFT_OUT = ()
GUESSED = ("num_heads",)

# Modules and parameters by our names.
MODULES = {
    "patch_embed": "patch_embed.proj",
    "time_embed_1": "time_embed.0",
    "time_embed_2": "time_embed.2",
    "label_embed": "label_emb",
    "mid": "mid_block",
    "final_conv": "final_layer",
}
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


@arguments_of_reference()
class Arguments:
    """Arguments of the reference's ``UViT``.

    Its ``num_classes`` counts the rows of the table, including the null class's.
    """

    img_size: Size = 224
    patch_size: Size = 16
    in_chans: Size = 3
    embed_dim: Size = 768
    depth: Size = 12
    num_heads: Size = 12
    mlp_ratio: Ratio = 4.0
    qkv_bias: bool = False
    qk_scale: float | None = None
    mlp_time_embed: bool = False
    num_classes: Count = -1
    use_checkpoint: bool = False
    conv: bool = True
    skip: bool = True

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images."""
        return self.img_size, self.img_size, self.in_chans

    def network(self) -> UViT:
        """Builds this package's ``UViT`` with these arguments.

        Raises:
          InputError: ``qk_scale`` is set. The reference's fast attention ignores it, and no
            released network has one.
        """
        if self.qk_scale is not None:
            raise InputError(
                f"qk_scale: {self.qk_scale} is not supported; leave it out, and attention scales "
                "by 1 / sqrt(head width)"
            )
        return UViT(
            patch_size=self.patch_size,
            width=self.embed_dim,
            depth=self.depth // 2 * 2,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            qkv_bias=self.qkv_bias,
            num_classes=max(self.num_classes - 1, 0),
            mlp_time_embed=self.mlp_time_embed,
            skip=self.skip,
            conv=self.conv,
            remat="block" if self.use_checkpoint else "none",
        )


def arguments(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Reads the reference's arguments off its tensors.

    Heads are taken to be 64 wide, as in all released networks.
    """
    width, channels, patch, _ = shape_of(tensors, "patch_embed.proj.weight", 4)
    labels = "label_emb.weight" in tensors
    classes = shape_of(tensors, "label_emb.weight", 2)[0] if labels else -1
    hidden, _ = shape_of(tensors, "mid_block.mlp.fc1.weight", 2)
    _, positions, _ = shape_of(tensors, "pos_embed", 3)
    side = isqrt(positions - 1 - labels) if positions > 1 + labels else 0
    if side**2 + 1 + labels != positions:
        raise InputError(
            f"tensor pos_embed: has {positions} positions, not a square of patches and one token "
            f"for the time{' and one' if labels else ', or two with label_emb.weight,'} for the "
            "label; check the kind and the file"
        )
    return dict(
        img_size=side * patch,
        patch_size=patch,
        in_chans=channels,
        embed_dim=width,
        depth=2 * blocks(tensors, "in_blocks"),
        num_heads=max(1, width // 64),
        mlp_ratio=hidden / width,
        qkv_bias=has(tensors, "*.attn.qkv.bias"),
        mlp_time_embed=has(tensors, "time_embed.*"),
        num_classes=classes,
        conv=has(tensors, "final_layer.*"),
        skip=has(tensors, "out_blocks.*.skip_linear.*"),
    )


def reference_name(network: UViT, path: tuple[str, ...]) -> str:
    """Returns the reference's name of a parameter.

    ``in_1, norm1, bias`` is ``in_blocks.0.norm1.bias``.
    """
    del network
    *modules, leaf = path
    parts = []
    for name in modules:
        kind, _, number = name.partition("_")
        if kind in ("in", "out"):
            parts.append(f"{kind}_blocks.{int(number) - 1}")
        else:
            parts.append(MODULES.get(name, name))
    return ".".join([*parts, LEAVES.get(leaf, leaf)])


def arranged(
    network: UViT, path: tuple[str, ...], tensor: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Returns the tensor as it is: its rows are in our order."""
    del network, path, shape
    return tensor
