"""Weights of Stable Diffusion's autoencoder (huggingface/diffusers, autoencoder_kl.py)."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from ddaepp_jax.autoencoders.kl import AutoencoderKL
from ddaepp_jax.data.normalisation import Normalisation
from ddaepp_jax.released.arguments import AsTuple, Size, Sizes, arguments_of_reference
from ddaepp_jax.released.tensors import blocks, has, shape_of
from ddaepp_jax.released.va_vae import arranged

__all__ = [
    "GUESSED",
    "LEFT_OUT",
    "MARKS",
    "RENAMED",
    "Arguments",
    "arguments",
    "arranged",
    "reference_name",
]

MARKS = ("encoder.conv_in.weight", "encoder.down_blocks.0.resnets.0.conv1.weight")
LEFT_OUT = ()
GUESSED = (
    "norm_num_groups",
    "sample_size",
    "scaling_factor",
    "shift_factor",
    "latents_mean",
    "latents_std",
    "force_upcast",
)

# Layers of the attention at the lowest resolution, by our names.
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
# Parts of names in files of before 2023, such as Stable Diffusion's.
RENAMED = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
# Other layers whose names differ.
OTHERS = {
    "mid_block_1": "mid_block.resnets.0",
    "mid_attn_1": "mid_block.attentions.0",
    "mid_block_2": "mid_block.resnets.1",
    "norm_out": "conv_norm_out",
    "shortcut": "conv_shortcut",
}

Down = Annotated[tuple[Annotated[str, Field(pattern="^DownEncoderBlock2D$")], ...], AsTuple]
Up = Annotated[tuple[Annotated[str, Field(pattern="^UpDecoderBlock2D$")], ...], AsTuple]
Numbers = Annotated[tuple[float, ...], AsTuple]
Silu = Annotated[str, Field(pattern="^(silu|swish)$")]


@arguments_of_reference()
class Arguments:
    """Arguments of the reference's ``AutoencoderKL``; blocks of other types are not supported."""

    in_channels: Size = 3
    out_channels: Size = 3
    down_block_types: Down = ("DownEncoderBlock2D",)
    up_block_types: Up = ("UpDecoderBlock2D",)
    block_out_channels: Sizes = (64,)
    layers_per_block: Size = 1
    act_fn: Silu = "silu"
    latent_channels: Size = 4
    norm_num_groups: Size = 32
    sample_size: Size = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    latents_mean: Numbers | None = None
    latents_std: Numbers | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of an image; any multiple of the factor will do."""
        side = 2 ** (len(self.block_out_channels) - 1)
        return side, side, self.in_channels

    @property
    def normalisation(self) -> Normalisation:
        """How latents are brought to unit deviation."""
        if self.latents_mean and self.latents_std:
            scale = tuple(self.scaling_factor / std for std in self.latents_std)
            return Normalisation(self.latents_mean, scale)
        return Normalisation((self.shift_factor or 0.0,), (self.scaling_factor,))

    def network(self) -> AutoencoderKL:
        """Builds this package's ``AutoencoderKL`` with these arguments."""
        return AutoencoderKL(
            channels=self.block_out_channels[0],
            widths=self.block_out_channels,
            blocks=self.layers_per_block,
            attend_middle=self.mid_block_add_attention,
            image_channels=self.in_channels,
            latent_channels=self.latent_channels,
            quantised=self.use_quant_conv,
            unquantised=self.use_post_quant_conv,
            groups=self.norm_num_groups,
        )


def arguments(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Reads the reference's arguments off its tensors; norms are taken to have 32 groups."""
    levels = blocks(tensors, "encoder.down_blocks")
    moments = shape_of(tensors, "encoder.conv_out.weight", 4)[0]
    return dict(
        in_channels=shape_of(tensors, "encoder.conv_in.weight", 4)[1],
        out_channels=shape_of(tensors, "decoder.conv_out.weight", 4)[0],
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(
            shape_of(tensors, f"encoder.down_blocks.{level}.resnets.0.conv1.weight", 4)[0]
            for level in range(levels)
        ),
        layers_per_block=blocks(tensors, "encoder.down_blocks.0.resnets"),
        latent_channels=moments // 2,
        use_quant_conv=has(tensors, "quant_conv.*"),
        use_post_quant_conv=has(tensors, "post_quant_conv.*"),
        mid_block_add_attention=has(tensors, "encoder.mid_block.attentions.*"),
    )


def reference_name(network: AutoencoderKL, path: tuple[str, ...]) -> str:
    """Returns the reference's name of a parameter.

    The decoder's levels are numbered from the lowest resolution on: of four, ``decoder,
    up_3_block_1, conv1, kernel`` is ``decoder.up_blocks.0.resnets.1.conv1.weight``.
    """
    *modules, leaf = path
    in_attention = "mid_attn_1" in modules
    parts = []
    for module in modules:
        if in_attention and module in ATTENTION:
            parts.append(ATTENTION[module])
        elif match := re.fullmatch(r"(down|up)_(\d+)_(\w+?)(?:_(\d+))?", module):
            way, level, kind, number = match.groups()
            place = int(level) if way == "down" else len(network.widths) - 1 - int(level)
            name = f"resnets.{number}" if kind == "block" else f"{way}samplers.0.conv"
            parts.append(f"{way}_blocks.{place}.{name}")
        else:
            parts.append(OTHERS.get(module, module))
    return ".".join([*parts, "bias" if leaf == "bias" else "weight"])
