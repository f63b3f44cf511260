"""Weights of latent diffusion's autoencoders under the original names.

VA-VAE (hustvl/LightningDiT, tokenizer/autoencoder.py) has them, and so have Stable Diffusion's
first files (``first_stage_model.``) and MAR's autoencoder.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from ddaepp_jax.autoencoders.kl import AutoencoderKL
from ddaepp_jax.released.arguments import Size, Sizes, arguments_of_reference
from ddaepp_jax.released.tensors import blocks, has, shape_of

MARKS = ("encoder.conv_in.weight", "encoder.down.0.block.0.conv1.weight", "quant_conv.weight")
# The networks that VA-VAE's training compares with, and its losses.
LEFT_OUT = ("foundation_model.*", "loss.*", "linear_proj*", "model_ema.*")
GUESSED = ("resolution", "model_type")


@arguments_of_reference()
class Arguments:
    """Arguments of the reference's ``AutoencoderKL``, and of the ``Encoder`` that it builds.

    Attention follows the blocks at ``attn_resolutions``, of images of side ``resolution``; with
    ``model_type="marvae"``, in the encoder alone.
    """

    embed_dim: Size = 32
    ch_mult: Sizes = (1, 1, 2, 2, 4)
    use_variational: bool = True
    model_type: Literal["vavae", "marvae"] = "vavae"
    ch: Size = 128
    num_res_blocks: Size = 2
    attn_resolutions: Sizes = (16,)
    in_channels: Size = 3
    resolution: Size = 256
    z_channels: Size | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of an image; any multiple of the factor will do."""
        side = 2 ** (len(self.ch_mult) - 1)
        return side, side, self.in_channels

    def network(self) -> AutoencoderKL:
        """Builds this package's ``AutoencoderKL`` with these arguments."""
        attend = tuple(
            level
            for level in range(len(self.ch_mult))
            if self.resolution // 2**level in self.attn_resolutions
        )
        return AutoencoderKL(
            channels=self.ch,
            widths=tuple(self.ch * mult for mult in self.ch_mult),
            blocks=self.num_res_blocks,
            attend_down=attend,
            attend_up=attend if self.model_type == "vavae" else (),
            image_channels=self.in_channels,
            latent_channels=self.embed_dim,
            inner_channels=self.z_channels or self.embed_dim,
            variational=self.use_variational,
        )


def arguments(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Reads the reference's arguments off its tensors.

    Attention at the lowest resolution is told as ``attn_resolutions=(16,)`` of images of the side
    that gives 16 there.
    """
    channels, in_channels, *_ = shape_of(tensors, "encoder.conv_in.weight", 4)
    levels = blocks(tensors, "encoder.down")
    widths = [
        shape_of(tensors, f"encoder.down.{level}.block.0.conv1.weight", 4)[0]
        for level in range(levels)
    ]
    moments = shape_of(tensors, "quant_conv.weight", 4)[0]
    inner, latent, *_ = shape_of(tensors, "post_quant_conv.weight", 4)
    sides = [2**level for level in range(levels) if has(tensors, f"encoder.down.{level}.attn.*")]
    resolution = 16 * 2 ** (levels - 1)
    return dict(
        embed_dim=latent,
        ch_mult=tuple(width // channels for width in widths),
        use_variational=moments == 2 * latent,
        model_type="vavae" if has(tensors, "decoder.up.*.attn.*") or not sides else "marvae",
        ch=channels,
        num_res_blocks=blocks(tensors, "encoder.down.0.block"),
        attn_resolutions=tuple(resolution // side for side in sides),
        in_channels=in_channels,
        resolution=resolution,
        z_channels=inner,
    )


def reference_name(network: AutoencoderKL, path: tuple[str, ...]) -> str:
    """Returns the reference's name of a parameter.

    ``decoder, up_3_block_1, conv1, kernel`` is ``decoder.up.3.block.1.conv1.weight``.
    """
    del network
    *modules, leaf = path
    names = {"shortcut": "nin_shortcut"}
    parts = [_part(names.get(module, module)) for module in modules]
    return ".".join([*parts, "bias" if leaf == "bias" else "weight"])


def _part(module: str) -> str:
    """Returns a part of a name: of up_3_block_1 up.3.block.1, of mid_attn_1 mid.attn_1."""
    half, _, rest = module.partition("_")
    if half in ("down", "up"):
        resampling = ".conv" if module.endswith("sample") else ""
        return module.replace("_", ".") + resampling
    return f"mid.{rest}" if half == "mid" else module


def arranged(
    network: AutoencoderKL, path: tuple[str, ...], tensor: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Drops the two last axes of a convolution of 1x1 where our layer is dense."""
    del network, path
    return tensor[..., 0, 0] if tensor.ndim == 4 and len(shape) == 2 else tensor
