"""Weights of the TAESD family (madebyollin/taesd, taesd.py).

A file holds both halves under ``encoder.`` and ``decoder.``, as the reference's ``TAESD`` does.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from ddaepp_jax.autoencoders.tiny import STAGES, TinyAutoencoder
from ddaepp_jax.released.arguments import Size, arguments_of_reference
from ddaepp_jax.released.tensors import has, shape_of

# FLUX.2's, which are fetched by default, with the first digits of their SHA-256.
_COMMIT = "https://github.com/madebyollin/taesd/raw/5cccb12dc72074a4be35680c3b108548a7c69978/"
FILES = {
    f"{_COMMIT}taef2_encoder.pth": "0a44a31e1ae59eb9",
    f"{_COMMIT}taef2_decoder.pth": "10a4e1021e89d755",
}

MARKS = ("encoder.0.weight", "encoder.14.weight", "decoder.1.weight", "decoder.19.weight")
LEFT_OUT = ()
GUESSED = ()

LAYERS = {
    **{f"conv{number}": f"conv.{2 * (number - 1)}" for number in (1, 2, 3)},
    "pool_in": "pool.0",
    "pool_norm": "pool.1",
    "pool_out": "pool.3",
}


@arguments_of_reference()
class Arguments:
    """Arguments of the reference's ``TAESD``, save those of files.

    Attributes:
      latent_channels: channels of a latent; None: 4.
      arch_variant: "flux_2" for FLUX.2's latents. The reference's "f32" is another network.
    """

    latent_channels: Size | None = None
    arch_variant: Literal["flux_2"] | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of an image; any height and width will do."""
        return 8, 8, 3

    def network(self) -> TinyAutoencoder:
        """Builds this package's ``TinyAutoencoder`` with these arguments."""
        return TinyAutoencoder(self.latent_channels or 4, pooled=self.arch_variant == "flux_2")


def arguments(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Reads the reference's arguments off its tensors."""
    channels = shape_of(tensors, "encoder.14.weight", 4)[0]
    pooled = has(tensors, "encoder.*.pool.0.weight")
    return dict(latent_channels=channels, arch_variant="flux_2" if pooled else None)


def reference_name(network: TinyAutoencoder, path: tuple[str, ...]) -> str:
    """Returns the reference's name of a parameter, whose layers have numbers.

    ``encoder, block_1_2, conv3, kernel`` is ``encoder.5.conv.4.weight``.
    """
    del network
    half, layer, *inner, leaf = path
    numbers = _encoder() if half == "encoder" else _decoder()
    inside = [LAYERS[name] for name in inner]
    return ".".join([half, str(numbers[layer]), *inside, "bias" if leaf == "bias" else "weight"])


def arranged(
    network: TinyAutoencoder, path: tuple[str, ...], tensor: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Drops the two last axes of a convolution of 1x1 where our layer is dense."""
    del network, path
    return tensor[..., 0, 0] if tensor.ndim == 4 and len(shape) == 2 else tensor


def _encoder() -> dict[str, int]:
    """Returns the numbers of the encoder's layers in the reference."""
    names = ["conv_in"]
    for level, blocks in enumerate(STAGES):
        names += [f"down_{level}"] if level else []
        names += [f"block_{level}_{number}" for number in range(blocks)]
    return {name: number for number, name in enumerate([*names, "conv_out"])}


def _decoder() -> dict[str, int]:
    """Returns the numbers of the decoder's layers; clamps, ReLUs and doublings count too."""
    names = ["", "conv_in", ""]
    for level, blocks in reversed(list(enumerate(STAGES))):
        names += [f"block_{level}_{number}" for number in range(blocks)]
        names += ["", f"up_{level}"] if level else []
    return {name: number for number, name in enumerate([*names, "conv_out"])}
