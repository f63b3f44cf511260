"""Layers that several backbones use: the time embedding, attention, the MLP, initialisers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.nn.initializers import Initializer

LINEAR_INIT = nn.initializers.normal(0.02)
# PyTorch's default for convolutions and linear layers: uniform within 1 / sqrt(fan_in), kernel and
# bias.
CONV_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def conv_bias_init(fan_in: int) -> Initializer:
    """Returns PyTorch's default bias initialiser: uniform within ``1 / sqrt(fan_in)``."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


def wide(dtype: jnp.dtype) -> jnp.dtype:
    """Returns ``dtype`` or float32, whichever is wider, for computations that need precision."""
    return jnp.promote_types(dtype, jnp.float32)


def sinusoid(
    t: Array,
    width: int,
    max_period: float = 10_000.0,
    *,
    sines_first: bool = False,
    endpoint: bool = False,
) -> Array:
    """Computes the sinusoidal embedding of times.

    The defaults are those of U-ViT and DiT; with both options it is that of DDPM's UNet.

    Args:
      t: (B,) times, as the network's paper feeds them.
      width: number of channels, even.
      max_period: period of the slowest wave, in units of 2 pi.
      sines_first: order the channels as [sin, cos] instead of [cos, sin].
      endpoint: let the lowest frequency be 1 / max_period itself, not the one before it.

    Returns:
      (B, width) float32.
    """
    half = width // 2
    frequencies = jnp.exp(
        -jnp.log(jnp.float32(max_period)) * jnp.arange(half, dtype=jnp.float32) / (half - endpoint)
    )
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]
    waves = [jnp.cos(angles), jnp.sin(angles)]
    return jnp.concatenate(waves[::-1] if sines_first else waves, axis=-1)


def layer_norm(name: str, dtype: jnp.dtype) -> nn.LayerNorm:
    """Makes a LayerNorm with PyTorch's epsilon.

    Statistics and normalisation are in float32, whatever ``dtype`` is.
    """
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)


def rotated(x: Array, cos: Array, sin: Array) -> Array:
    """Applies the rotary position embedding (arXiv 2104.09864, eq. 34) to ``x`` (B, L, heads, D).

    Channels 2i and 2i + 1 turn together by an angle of the position, whose cosine and sine are
    given for each channel as ``cos`` and ``sin`` (L, D). The computation is in float32.
    """
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    quarter = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)
    return (x * cos[None, :, None] + quarter * sin[None, :, None]).astype(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with one fused qkv projection; logits and softmax in float32.

    Attributes:
      num_heads: number of heads, which divides the width.
      qkv_bias: whether the qkv projection has a bias.
      implementation: implementation of ``jax.nn.dot_product_attention``: "xla" or "cudnn".
      dtype: dtype of the computation.
      kernel_init, bias_init: initialisers of both projections.
      qk_norm: function of a name that makes the norm of the queries or keys over a head's
        channels; None: no norms.
    """

    num_heads: int
    qkv_bias: bool = False
    implementation: str = "xla"
    dtype: jnp.dtype = jnp.float32
    kernel_init: Initializer = LINEAR_INIT
    bias_init: Initializer = nn.initializers.zeros
    qk_norm: Callable[[str], nn.Module] | None = None

    @nn.compact
    def __call__(self, x: Array, rotation: tuple[Array, Array] | None = None) -> Array:
        """Maps ``x`` (B, L, width) to the same shape.

        Args:
          x: tokens.
          rotation: cosines and sines of the rotary embedding, see ``rotated``; None: none.
        """
        batch, length, width = x.shape
        init = dict(kernel_init=self.kernel_init, bias_init=self.bias_init)
        qkv = nn.Dense(3 * width, use_bias=self.qkv_bias, dtype=self.dtype, name="qkv", **init)(x)
        q, k, v = jnp.moveaxis(
            qkv.reshape(batch, length, 3, self.num_heads, width // self.num_heads), 2, 0
        )
        if self.qk_norm:
            q = self.qk_norm("q_norm")(q)
            k = self.qk_norm("k_norm")(k)
        if rotation is not None:
            q = rotated(q, *rotation)
            k = rotated(k, *rotation)
        out = jax.nn.dot_product_attention(q, k, v, implementation=self.implementation)
        return nn.Dense(width, dtype=self.dtype, name="proj", **init)(out.reshape(x.shape))


class Mlp(nn.Module):
    """Linear, GELU, Linear; the output has the input's width.

    ``approximate`` computes GELU by tanh.
    """

    hidden: int
    dtype: jnp.dtype = jnp.float32
    approximate: bool = False
    kernel_init: Initializer = LINEAR_INIT

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dense = dict(kernel_init=self.kernel_init, dtype=self.dtype)
        hidden = nn.gelu(
            nn.Dense(self.hidden, **dense, name="fc1")(x), approximate=self.approximate
        )
        return nn.Dense(x.shape[-1], **dense, name="fc2")(hidden)
