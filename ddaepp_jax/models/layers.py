"""Layers that more than one backbone uses: time embedding, attention, MLP, patches, initialisers."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.nn.initializers import Initializer

LINEAR_INIT = nn.initializers.normal(0.02)
# PyTorch's default for convolutions: uniform within 1 / sqrt(fan_in), for the kernel and for the bias.
CONV_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def conv_bias_init(fan_in: int) -> Initializer:
    """Uniform within ``1 / sqrt(fan_in)``: PyTorch's default for the bias of a convolution."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def sinusoid(t: Array, width: int, max_period: float = 10_000.0) -> Array:
    """Sinusoidal embedding of a time, cosines first (U-ViT and DiT).

    Args:
      t: (B,) times, as the network's paper feeds them.
      width: even; number of channels.

    Returns:
      (B, width) float32.
    """
    half = width // 2
    frequencies = jnp.exp(-jnp.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def layer_norm(name: str, dtype: jnp.dtype) -> nn.LayerNorm:
    """LayerNorm with PyTorch's epsilon; statistics and normalisation in float32 whatever ``dtype`` is."""
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)


class Attention(nn.Module):
    """Multi-head self-attention with one fused qkv projection; logits and softmax in float32.

    ``implementation`` is that of ``jax.nn.dot_product_attention``: "xla" or "cudnn".
    """

    num_heads: int
    qkv_bias: bool = False
    implementation: str = "xla"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, length, width = x.shape
        qkv = nn.Dense(3 * width, use_bias=self.qkv_bias, kernel_init=LINEAR_INIT, dtype=self.dtype, name="qkv")(x)
        q, k, v = jnp.moveaxis(qkv.reshape(batch, length, 3, self.num_heads, width // self.num_heads), 2, 0)
        out = jax.nn.dot_product_attention(q, k, v, implementation=self.implementation)
        return nn.Dense(width, kernel_init=LINEAR_INIT, dtype=self.dtype, name="proj")(out.reshape(x.shape))


class Mlp(nn.Module):
    """Linear, exact GELU, Linear."""

    hidden: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        hidden = nn.Dense(self.hidden, kernel_init=LINEAR_INIT, dtype=self.dtype, name="fc1")(x)
        hidden = nn.gelu(hidden, approximate=False)
        return nn.Dense(x.shape[-1], kernel_init=LINEAR_INIT, dtype=self.dtype, name="fc2")(hidden)
