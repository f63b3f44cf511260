"""Weights of DDAE's UNet (FutureXiang/ddae, model/unet.py)."""

from collections.abc import Mapping
from typing import Any

import einops
import numpy as np

from ddaepp_jax.models.unet import UNet
from ddaepp_jax.released.arguments import (
    Count,
    Flags,
    ImageShape,
    Size,
    Sizes,
    arguments_of_reference,
)
from ddaepp_jax.released.tensors import blocks, has, shape_of

MARKS = ("image_proj.weight", "time_emb.lin1.weight", "down.0.res.conv1.weight")
LEFT_OUT = ()
GUESSED = ("image_shape",)

# Layers outside the blocks, by our names.
OUTSIDE = {
    "time_embed_1": "time_emb.lin1",
    "time_embed_2": "time_emb.lin2",
    "augment_embed": "time_emb.aug_emb",
}
# Layers of a block, by our names. The reference names a residual block differently by its place.
# "" is a block that is a single convolution.
LAYERS = {
    "": "conv",
    "norm1": "{block}.norm1",
    "conv1": "{block}.conv1",
    "condition": "{block}.time_emb.1",
    "norm2": "{block}.norm2",
    "conv2": "{block}.conv2.1",
    "shortcut": "{block}.shortcut",
    "attn_norm": "attn.norm",
    "attn.qkv": "attn.projection",
    "attn.proj": "attn.output",
}


@arguments_of_reference()
class Arguments:
    """Arguments of the reference's ``UNet``; its ``image_shape`` is (channels, height, width)."""

    image_shape: ImageShape = (3, 32, 32)
    n_channels: Size = 128
    ch_mults: Sizes = (1, 2, 2, 2)
    is_attn: Flags = (False, True, False, False)
    attn_channels_per_head: Size | None = None
    dropout: float = 0.1
    n_blocks: Size = 2
    use_res_for_updown: bool = False
    augment_dim: Count = 0

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images."""
        channels, height, width = self.image_shape
        return height, width, channels

    def network(self) -> UNet:
        """Builds this package's ``UNet`` with these arguments.

        Its bottleneck is the last decoder block at 8x8, or at the next smaller size, but not at
        full resolution.
        """
        side = min(self.image_shape[1:])
        lowest = len(self.ch_mults) - 1
        level = next((i for i in range(1, lowest) if side >> i <= 8), lowest)
        return UNet(
            channels=self.n_channels,
            mults=self.ch_mults,
            attend=self.is_attn,
            head_channels=self.attn_channels_per_head or 0,
            blocks=self.n_blocks,
            residual_updown=self.use_res_for_updown,
            dropout=self.dropout,
            augment_dim=self.augment_dim,
            bottleneck=f"out_{(lowest - level + 1) * (self.n_blocks + 1)}",
        )


def arguments(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Reads the reference's arguments off its tensors.

    They do not tell the images' size, taken to be 32x32, and the number of attention heads, taken
    to be one.
    """
    channels, image_channels, *_ = shape_of(tensors, "image_proj.weight", 4)
    halvings = [
        i
        for i in range(blocks(tensors, "down"))
        if has(tensors, f"down.{i}.conv.*") or has(tensors, f"down.{i}.op.*")
    ]
    firsts = [0, *(i + 1 for i in halvings)]  # the first block of each level
    widths = [shape_of(tensors, f"down.{i}.res.conv1.weight", 4)[0] for i in firsts]
    augments = "time_emb.aug_emb.weight" in tensors
    return dict(
        image_shape=(image_channels, 32, 32),
        n_channels=channels,
        ch_mults=tuple(width // channels for width in widths),
        is_attn=tuple(has(tensors, f"down.{i}.attn.*") for i in firsts),
        n_blocks=halvings[0] if halvings else blocks(tensors, "down"),
        use_res_for_updown=has(tensors, "down.*.op.*"),
        augment_dim=shape_of(tensors, "time_emb.aug_emb.weight", 2)[1] if augments else 0,
    )


def reference_name(network: UNet, path: tuple[str, ...]) -> str:
    """Returns the reference's name of a parameter.

    ``in_1, conv1, kernel`` is ``down.0.res.conv1.weight``.
    """
    place, *layers, leaf = path
    leaf = "bias" if leaf == "bias" else "weight"
    kind, _, number = place.partition("_")
    if kind not in ("in", "down", "mid", "out", "up"):
        return f"{OUTSIDE.get(place, place)}.{leaf}"
    layer = LAYERS[".".join(layers)]
    if kind == "mid":
        return f"middle.{layer.format(block=f'res{number}')}.{leaf}"
    n = int(number)
    half = "down" if kind in ("in", "down") else "up"
    per_level = network.blocks if half == "down" else network.blocks + 1
    if kind in ("down", "up"):
        return f"{half}.{n * (per_level + 1) - 1}.{layer.format(block='op')}.{leaf}"
    return f"{half}.{n - 1 + (n - 1) // per_level}.{layer.format(block='res')}.{leaf}"


def arranged(
    network: UNet, path: tuple[str, ...], tensor: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Reorders the rows of qkv: the reference's go head by head, ours by q, k and v."""
    del shape
    if "qkv" not in path:
        return tensor
    width = len(tensor) // 3
    heads = width // (network.head_channels or width)
    return einops.rearrange(tensor, "(head qkv d) ... -> (qkv head d) ...", head=heads, qkv=3)
