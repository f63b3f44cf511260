"""The tiny autoencoders of the TAESD family (github.com/madebyollin/taesd), f = 8.

They were distilled from larger ones, and take and give about the same latents in a small part of
the time.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

STAGES = (1, 3, 3, 3)  # blocks of the encoder's levels, from the image's resolution on


class TinyAutoencoder(nn.Module):
    """Encodes images as latents, without variances, and decodes latents.

    Attributes:
      latent_channels: channels of a latent.
      pooled: whether the blocks at the lowest resolution have a branch that is normalised over all
        positions, as for FLUX.2's latents.
      width: channels of all levels.
      dtype: dtype of the computation.
    """

    latent_channels: int = 4
    pooled: bool = False
    width: int = 64
    dtype: jnp.dtype = jnp.float32

    @property
    def factor(self) -> int:
        """Pixels of a latent's side."""
        return 2 ** (len(STAGES) - 1)

    def setup(self) -> None:
        self.encoder = _Encoder(self.latent_channels, self.pooled, self.width, self.dtype)
        self.decoder = _Decoder(3, self.pooled, self.width, self.dtype)

    def __call__(self, images: Array) -> Array:
        """Decodes the images' latents."""
        return self.decode(self.encode(images))

    def encode(self, images: Array) -> Array:
        """Returns latents (B, h, w, C) of images (B, H, W, 3) in [0, 1].

        h and w are a ceiling's: each of three levels halves the size, rounding up.
        """
        return self.encoder(images)

    def decode(self, latents: Array) -> Array:
        """Returns images (B, 8 h, 8 w, 3) about in [0, 1] of latents (B, h, w, C)."""
        return self.decoder(latents)


class _Half(nn.Module):
    """What the encoder and the decoder share.

    Attributes:
      channels: channels of the result.
      pooled, width, dtype: as in ``TinyAutoencoder``.
    """

    channels: int
    pooled: bool
    width: int
    dtype: jnp.dtype

    def level(self, x: Array, level: int) -> Array:
        """Applies the blocks of a level."""
        pooled = self.pooled and level == len(STAGES) - 1
        for number in range(STAGES[level]):
            x = _Block(pooled, self.dtype, name=f"block_{level}_{number}")(x)
        return x


class _Encoder(_Half):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = _conv(x, self.width, "conv_in", self.dtype)
        for level in range(len(STAGES)):
            if level:
                x = _conv(x, self.width, f"down_{level}", self.dtype, stride=2, use_bias=False)
            x = self.level(x, level)
        return _conv(x, self.channels, "conv_out", self.dtype)


class _Decoder(_Half):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.relu(_conv(jnp.tanh(x / 3) * 3, self.width, "conv_in", self.dtype))
        for level in reversed(range(len(STAGES))):
            x = self.level(x, level)
            if level:
                x = x.repeat(2, axis=1).repeat(2, axis=2)
                x = _conv(x, self.width, f"up_{level}", self.dtype, use_bias=False)
        return _conv(x, self.channels, "conv_out", self.dtype)


class _Block(nn.Module):
    """Three convolutions, added to the input, and ReLU."""

    pooled: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        if self.pooled:
            h = nn.Dense(4 * width, use_bias=False, dtype=self.dtype, name="pool_in")(x)
            h = nn.relu(nn.GroupNorm(4, epsilon=1e-5, dtype=self.dtype, name="pool_norm")(h))
            x = x + nn.Dense(width, use_bias=False, dtype=self.dtype, name="pool_out")(h)
        h = nn.relu(_conv(x, width, "conv1", self.dtype))
        h = nn.relu(_conv(h, width, "conv2", self.dtype))
        return nn.relu(x + _conv(h, width, "conv3", self.dtype))


def _conv(
    x: Array, width: int, name: str, dtype: jnp.dtype, stride: int = 1, use_bias: bool = True
) -> Array:
    conv = nn.Conv(width, (3, 3), stride, padding=1, use_bias=use_bias, dtype=dtype, name=name)
    return conv(x)
