"""The convolutional autoencoder of latent diffusion (Rombach et al. 2022, arXiv 2112.10752).

Stable Diffusion's has f = 8 and 4 channels, VA-VAE (arXiv 2501.01423) f = 16 and 32 channels.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array


class AutoencoderKL(nn.Module):
    """Encodes images as Gaussians over latents, and decodes latents.

    Level i of either half has 1 / 2^i of the image's height and width.

    Attributes:
      channels: channels of the first convolution.
      widths: channels of each level.
      blocks: residual blocks of a level of the encoder; the decoder's have one more.
      attend_down: levels of the encoder whose blocks are followed by attention.
      attend_up: the same of the decoder.
      attend_middle: whether there is attention at the lowest resolution.
      image_channels: channels of an image.
      latent_channels: channels of a latent.
      inner_channels: channels of a latent within the two halves; 0: ``latent_channels``.
      quantised: whether 1x1 convolutions lead from the encoder to the moments.
      unquantised: whether a 1x1 convolution leads from the latents to the decoder.
      variational: whether the encoder has variances; without, the log-variance is 1, as in LDM.
      groups: groups of channels that are normalised together.
      dtype: dtype of the computation; statistics and softmax are in float32.
    """

    channels: int = 128
    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    attend_down: tuple[int, ...] = ()
    attend_up: tuple[int, ...] = ()
    attend_middle: bool = True
    image_channels: int = 3
    latent_channels: int = 4
    inner_channels: int = 0
    quantised: bool = True
    unquantised: bool = True
    variational: bool = True
    groups: int = 32
    dtype: jnp.dtype = jnp.float32

    @property
    def factor(self) -> int:
        """Pixels of a latent's side."""
        return 2 ** (len(self.widths) - 1)

    def setup(self) -> None:
        inner = self.inner_channels or self.latent_channels
        both = dict(
            widths=self.widths,
            attend_middle=self.attend_middle,
            groups=self.groups,
            dtype=self.dtype,
        )
        self.encoder = _Encoder(
            2 * inner, self.blocks, self.attend_down, channels=self.channels, **both
        )
        self.decoder = _Decoder(self.image_channels, self.blocks + 1, self.attend_up, **both)
        if self.quantised:
            moments = (2 if self.variational else 1) * self.latent_channels
            self.quant_conv = nn.Conv(moments, (1, 1), dtype=self.dtype)
        if self.unquantised:
            self.post_quant_conv = nn.Conv(inner, (1, 1), dtype=self.dtype)

    def __call__(self, images: Array) -> Array:
        """Decodes the means of the images' latents."""
        return self.decode(self.encode(images)[..., : self.latent_channels])

    def encode(self, images: Array) -> Array:
        """Returns the moments of latents.

        Args:
          images: (B, H, W, image_channels) in [-1, 1].

        Returns:
          (B, H // f, W // f, 2 * latent_channels): the mean, then the logarithm of the variance,
          which is not clipped.
        """
        moments = self.encoder(images)
        if self.quantised:
            moments = self.quant_conv(moments)
        if not self.variational:
            moments = jnp.concatenate([moments, jnp.ones_like(moments)], axis=-1)
        return moments

    def decode(self, latents: Array) -> Array:
        """Returns images (B, f H, f W, image_channels) about in [-1, 1] of (B, H, W, C) latents."""
        if self.unquantised:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents)


class _Half(nn.Module):
    """What the encoder and the decoder share; see ``AutoencoderKL`` for the fields.

    Attributes:
      width: channels of the result.
      blocks: residual blocks of a level.
      attend: levels whose blocks are followed by attention.
    """

    width: int
    blocks: int
    attend: tuple[int, ...]
    widths: tuple[int, ...]
    attend_middle: bool
    groups: int
    dtype: jnp.dtype

    def level(self, x: Array, level: int, name: str) -> Array:
        """Applies the blocks of a level."""
        for number in range(self.blocks):
            x = self.block(x, self.widths[level], f"{name}_{level}_block_{number}")
            if level in self.attend:
                x = self.attention(x, f"{name}_{level}_attn_{number}")
        return x

    def middle(self, x: Array) -> Array:
        """Applies the blocks at the lowest resolution."""
        x = self.block(x, x.shape[-1], "mid_block_1")
        if self.attend_middle:
            x = self.attention(x, "mid_attn_1")
        return self.block(x, x.shape[-1], "mid_block_2")

    def block(self, x: Array, width: int, name: str) -> Array:
        """Applies a residual block with ``width`` channels."""
        return _Block(width, self.groups, self.dtype, name=name)(x)

    def attention(self, x: Array, name: str) -> Array:
        """Applies attention among all positions."""
        return _Attention(self.groups, self.dtype, name=name)(x)

    def end(self, x: Array) -> Array:
        """Applies the last convolution."""
        x = nn.silu(_norm(x, self.groups, "norm_out", self.dtype))
        return _conv(x, self.width, "conv_out", self.dtype)


class _Encoder(_Half):
    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = _conv(x, self.channels, "conv_in", self.dtype)
        for level in range(len(self.widths)):
            x = self.level(x, level, "down")
            if level < len(self.widths) - 1:
                # Zeros on the right and below alone, as in the original.
                pads = ((0, 1), (0, 1))
                name = f"down_{level}_downsample"
                x = nn.Conv(x.shape[-1], (3, 3), 2, pads, dtype=self.dtype, name=name)(x)
        return self.end(self.middle(x))


class _Decoder(_Half):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = self.middle(_conv(x, self.widths[-1], "conv_in", self.dtype))
        for level in reversed(range(len(self.widths))):
            x = self.level(x, level, "up")
            if level:
                x = x.repeat(2, axis=1).repeat(2, axis=2)
                x = _conv(x, x.shape[-1], f"up_{level}_upsample", self.dtype)
        return self.end(x)


class _Block(nn.Module):
    """Two convolutions, each after GroupNorm and SiLU, added to the input."""

    width: int
    groups: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = nn.silu(_norm(x, self.groups, "norm1", self.dtype))
        h = _conv(h, self.width, "conv1", self.dtype)
        h = nn.silu(_norm(h, self.groups, "norm2", self.dtype))
        h = _conv(h, self.width, "conv2", self.dtype)
        if x.shape[-1] != self.width:
            x = nn.Dense(self.width, dtype=self.dtype, name="shortcut")(x)
        return x + h


class _Attention(nn.Module):
    """Attention with one head among all positions, added to the input."""

    groups: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = _norm(x, self.groups, "norm", self.dtype)
        h = h.reshape(len(x), -1, x.shape[-1])
        q, k, v = (nn.Dense(x.shape[-1], dtype=self.dtype, name=name)(h) for name in "qkv")
        h = jax.nn.dot_product_attention(*(each[:, :, None] for each in (q, k, v)))
        h = nn.Dense(x.shape[-1], dtype=self.dtype, name="proj_out")(h.reshape(x.shape))
        return x + h


def _norm(x: Array, groups: int, name: str, dtype: jnp.dtype) -> Array:
    return nn.GroupNorm(groups, epsilon=1e-6, dtype=dtype, name=name)(x)


def _conv(x: Array, width: int, name: str, dtype: jnp.dtype) -> Array:
    return nn.Conv(width, (3, 3), padding=1, dtype=dtype, name=name)(x)
