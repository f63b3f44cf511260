"""Weights of DDAE's UNet (FutureXiang/ddae, model/unet.py)."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import einops
import numpy as np

from ddaepp_jax.models.unet import UNet

MARKS = ("image_proj.weight", "time_emb.lin1.weight", "down.0.res.conv1.weight")
LEFT_OUT = ()

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


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the reference's ``UNet``; its ``image_shape`` is (channels, height, width)."""

    image_shape: tuple[int, int, int] = (3, 32, 32)
    n_channels: int = 128
    ch_mults: tuple[int, ...] = (1, 2, 2, 2)
    is_attn: tuple[bool, ...] = (False, True, False, False)
    attn_channels_per_head: int | None = None
    dropout: float = 0.1
    n_blocks: int = 2
    use_res_for_updown: bool = False
    augment_dim: int = 0

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
            mults=tuple(self.ch_mults),
            attend=tuple(self.is_attn),
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
    channels, image_channels = tensors["image_proj.weight"].shape[:2]
    levels: list[list[tuple[int, bool]]] = [[]]  # each block's width, and whether it has attention
    for i in itertools.count():
        if f"down.{i}.res.conv1.weight" in tensors:
            width = len(tensors[f"down.{i}.res.conv1.weight"])
            levels[-1].append((width, f"down.{i}.attn.norm.weight" in tensors))
        elif f"down.{i}.conv.weight" in tensors or f"down.{i}.op.conv1.weight" in tensors:
            levels.append([])
        else:
            break
    augment = tensors.get("time_emb.aug_emb.weight")
    return dict(
        image_shape=(image_channels, 32, 32),
        n_channels=channels,
        ch_mults=tuple(blocks[0][0] // channels for blocks in levels),
        is_attn=tuple(blocks[0][1] for blocks in levels),
        n_blocks=len(levels[0]),
        use_res_for_updown=f"down.{len(levels[0])}.op.conv1.weight" in tensors,
        augment_dim=0 if augment is None else augment.shape[1],
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
