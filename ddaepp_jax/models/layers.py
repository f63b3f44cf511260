"""Layers that more than one backbone uses: time embedding, attention, MLP, patches, initialisers."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.nn.initializers import Initializer

LINEAR_INIT = nn.initializers.normal(0.02)
# PyTorch's default for convolutions and linear layers: uniform within 1 / sqrt(fan_in), kernel and bias.
CONV_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def conv_bias_init(fan_in: int) -> Initializer:
    """Uniform within ``1 / sqrt(fan_in)``: PyTorch's default for the bias of a convolution or linear layer."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def sinusoid(
    t: Array, width: int, max_period: float = 10_000.0, *, sines_first: bool = False, endpoint: bool = False
) -> Array:
    """Sinusoidal embedding of a time; by default that of U-ViT and DiT, with both options that of DDPM's UNet.

    Args:
      t: (B,) times, as the network's paper feeds them.
      width: even; number of channels.
      sines_first: [sin, cos] in place of [cos, sin].
      endpoint: the lowest frequency is 1 / max_period itself, not the one before it.

    Returns:
      (B, width) float32.
    """
    half = width // 2
    frequencies = jnp.exp(-jnp.log(max_period) * jnp.arange(half, dtype=jnp.float32) / (half - endpoint))
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]
    waves = [jnp.cos(angles), jnp.sin(angles)]
    return jnp.concatenate(waves[::-1] if sines_first else waves, axis=-1)


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
    kernel_init: Initializer = LINEAR_INIT
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, length, width = x.shape
        init = dict(kernel_init=self.kernel_init, bias_init=self.bias_init)
        qkv = nn.Dense(3 * width, use_bias=self.qkv_bias, dtype=self.dtype, name="qkv", **init)(x)
        q, k, v = jnp.moveaxis(qkv.reshape(batch, length, 3, self.num_heads, width // self.num_heads), 2, 0)
        out = jax.nn.dot_product_attention(q, k, v, implementation=self.implementation)
        return nn.Dense(width, dtype=self.dtype, name="proj", **init)(out.reshape(x.shape))


class Mlp(nn.Module):
    """Linear, exact GELU, Linear."""

    hidden: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        hidden = nn.Dense(self.hidden, kernel_init=LINEAR_INIT, dtype=self.dtype, name="fc1")(x)
        hidden = nn.gelu(hidden, approximate=False)
        return nn.Dense(x.shape[-1], kernel_init=LINEAR_INIT, dtype=self.dtype, name="fc2")(hidden)
