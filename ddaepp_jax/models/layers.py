"""Layers that more than one backbone uses: time embedding, attention, MLP, patches,
initialisers.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

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
    """Uniform within ``1 / sqrt(fan_in)``: PyTorch's default for the bias of a convolution or
    linear layer.
    """
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


def wide(dtype: jnp.dtype) -> jnp.dtype:
    """What is computed in float32 at least, where ``dtype`` is the computation's."""
    return jnp.promote_types(dtype, jnp.float32)


def captured(
    features: OrderedDict[str, Array], names: Sequence[str] | None
) -> OrderedDict[str, Array]:
    """The named features, in the order of the names; all of them where ``names`` is None."""
    return features if names is None else OrderedDict((name, features[name]) for name in names)


def sinusoid(
    t: Array,
    width: int,
    max_period: float = 10_000.0,
    *,
    sines_first: bool = False,
    endpoint: bool = False,
) -> Array:
    """Sinusoidal embedding of a time; by default that of U-ViT and DiT, with both options that of
    DDPM's UNet.

    Args:
      t: (B,) times, as the network's paper feeds them.
      width: even; number of channels.
      sines_first: [sin, cos] in place of [cos, sin].
      endpoint: the lowest frequency is 1 / max_period itself, not the one before it.

    Returns:
      (B, width) float32.
    """
    half = width // 2
    frequencies = jnp.exp(
        -jnp.log(max_period) * jnp.arange(half, dtype=jnp.float32) / (half - endpoint)
    )
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]
    waves = [jnp.cos(angles), jnp.sin(angles)]
    return jnp.concatenate(waves[::-1] if sines_first else waves, axis=-1)


def layer_norm(name: str, dtype: jnp.dtype) -> nn.LayerNorm:
    """LayerNorm with PyTorch's epsilon; statistics and normalisation in float32 whatever ``dtype``
    is.
    """
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)


def rotated(x: Array, cos: Array, sin: Array) -> Array:
    """Rotary position embedding (arXiv 2104.09864, eq. 34): channels 2i and 2i + 1 of x (B, L,
    heads, D) are turned.

    ``cos`` and ``sin`` (L, D) are those of each channel's angle; computed in float32.
    """
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    quarter = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)
    return (x * cos[None, :, None] + quarter * sin[None, :, None]).astype(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with one fused qkv projection; logits and softmax in float32.

    Attributes:
      implementation: of ``jax.nn.dot_product_attention``: "xla" or "cudnn".
      qk_norm: makes the norms of queries and keys, over a head's channels, from their names; None:
        none.
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
        """``x`` (B, L, width) -> the same; ``rotation``: cosines and sines of the positions, see
        ``rotated``.
        """
        batch, length, width = x.shape
        init = dict(kernel_init=self.kernel_init, bias_init=self.bias_init)
        qkv = nn.Dense(3 * width, use_bias=self.qkv_bias, dtype=self.dtype, name="qkv", **init)(x)
        q, k, v = jnp.moveaxis(
            qkv.reshape(batch, length, 3, self.num_heads, width // self.num_heads), 2, 0
        )
        if self.qk_norm:
            q, k = self.qk_norm("q_norm")(q), self.qk_norm("k_norm")(k)
        if rotation is not None:
            q, k = rotated(q, *rotation), rotated(k, *rotation)
        out = jax.nn.dot_product_attention(q, k, v, implementation=self.implementation)
        return nn.Dense(width, dtype=self.dtype, name="proj", **init)(out.reshape(x.shape))


class Mlp(nn.Module):
    """Linear, GELU (exact, or approximated by tanh), Linear."""

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
