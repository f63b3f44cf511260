"""Layers that several backbones use: the time embedding, Linear, GELU, the MLP, initialisers."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.experimental.layout import Layout, with_layout_constraint
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


def _product(x: Array, kernel: Array, dimension_numbers: Any, **options: Any) -> Array:
    """Multiplies ``x`` (..., width) by ``kernel`` (width, features).

    On a CPU it is one product of matrices, with which XLA runs a transformer in up to a quarter
    less time. On a TPU an odd number of tokens would then be copied to another layout.
    """
    product = partial(jax.lax.dot_general, dimension_numbers=dimension_numbers, **options)

    def of_matrices(x: Array, kernel: Array) -> Array:
        flat = x.reshape(-1, x.shape[-1])
        out = jax.lax.dot_general(flat, kernel, (((1,), (0,)), ((), ())), **options)
        return out.reshape(*x.shape[:-1], kernel.shape[-1])

    return jax.lax.platform_dependent(x, kernel, cpu=of_matrices, cuda=of_matrices, default=product)


def row_major(x: Array) -> Array:
    """Returns ``x``, which XLA keeps in rows on a GPU.

    For the gradient of an embedding of positions, a sum over images, XLA would sooner have the
    images last, and would transpose all tokens in each block.
    """
    layout = Layout(tuple(range(x.ndim)))
    rows = lambda x: with_layout_constraint(x, layout)
    return jax.lax.platform_dependent(x, cuda=rows, default=lambda x: x)


class Dense(nn.Dense):
    """``nn.Dense`` whose product takes the form that is fastest on the platform."""

    dot_general: Callable[..., Array] = _product


class SplitDense(nn.Module):
    """Several projections of one input, whose kernels and biases lie side by side in a parameter.

    Parameters and numbers are those of one ``nn.Dense`` whose output is split. The products are
    apart, because on a TPU it costs a tenth of a step to split the output and join its gradient.

    Attributes:
      features: number of features of each projection.
      parts: number of projections.
      inputs: number of channels of the input, where zeros follow them; None: all.
      spare: number of zeros that each projection has after its features.
      use_bias: whether they have biases.
      dtype: dtype of the computation.
      kernel_init, bias_init: initialisers of the joint kernel and bias.
    """

    features: int
    parts: int = 1
    inputs: int | None = None
    spare: int = 0
    use_bias: bool = True
    dtype: jnp.dtype = jnp.float32
    kernel_init: Initializer = LINEAR_INIT
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        """Maps ``x`` (..., width) to ``parts`` arrays (..., features + spare)."""
        inputs = self.inputs or x.shape[-1]
        shape = (inputs, self.parts * self.features)
        zeros = ((0, x.shape[-1] - inputs), (0, self.spare))
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        kernels = [jnp.pad(part, zeros) for part in jnp.split(kernel, self.parts, axis=1)]
        x = x.astype(self.dtype)
        last = (((x.ndim - 1,), (0,)), ((), ()))
        outs = [_product(x, part, last) for part in kernels]
        if not self.use_bias:
            return outs
        bias = self.param("bias", self.bias_init, shape[1:], jnp.float32).astype(self.dtype)
        biases = [jnp.pad(part, zeros[1:]) for part in jnp.split(bias, self.parts)]
        aligned = (None,) * (x.ndim - 1)
        return [out + part[aligned] for out, part in zip(outs, biases, strict=True)]


class PatchConv(nn.Module):
    """A convolution of few channels: one product of the patches under the kernel with it.

    Parameters and numbers are those of ``nn.Conv``. In a loop of several steps XLA's CPU backend
    takes 4 to 30 times as long for the gradient of a convolution of 3 channels.

    Attributes:
      features: number of channels of the output.
      size: side of the kernel, in pixels.
      stride: distance of neighbouring patches, in pixels.
      padding: zeros on every side, in pixels.
      dtype: dtype of the computation.
    """

    features: int
    size: int
    stride: int = 1
    padding: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps ``x`` (B, H, W, C) to (B, H', W', features)."""
        taps = self.size**2 * x.shape[-1]
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", CONV_INIT, shape, jnp.float32).astype(self.dtype)
        bias = self.param("bias", conv_bias_init(taps), shape[-1:], jnp.float32)
        pad = (self.padding, self.padding)
        x = jnp.pad(x.astype(self.dtype), ((0, 0), pad, pad, (0, 0)))
        height, width = ((side - self.size) // self.stride + 1 for side in x.shape[1:3])
        rows, columns = ((n - 1) * self.stride + 1 for n in (height, width))
        patches = [
            x[:, i : i + rows : self.stride, j : j + columns : self.stride]
            for i in range(self.size)
            for j in range(self.size)
        ]
        product = jnp.concatenate(patches, -1).reshape(-1, taps) @ kernel.reshape(taps, -1)
        return (product + bias.astype(self.dtype)[None]).reshape(-1, height, width, self.features)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def gelu(x: Array, approximate: bool) -> Array:
    """Computes GELU, x Phi(x) (arXiv 1606.08415, section 2), in float32 at least.

    ``approximate`` computes Phi by tanh, otherwise by erf. ``nn.gelu`` takes erfc, which costs
    several times as much on a CPU, and its gradient keeps up to four arrays beside ``x``, where
    this one keeps none. Reverse-mode differentiation only.
    """
    wide_x = x.astype(wide(x.dtype))
    return (wide_x * _normal_cdf(wide_x, approximate)[0]).astype(x.dtype)


def _normal_cdf(x: Array, approximate: bool) -> tuple[Array, Array]:
    """Returns Phi(x) and its derivative."""
    if approximate:
        scale, cubic = math.sqrt(2 / math.pi), 0.044715
        tanh = jnp.tanh(scale * (x + cubic * x**3))
        return 0.5 * (1 + tanh), 0.5 * (1 - tanh**2) * scale * (1 + 3 * cubic * x**2)
    density = math.sqrt(0.5 / math.pi) * jnp.exp(-0.5 * x**2)
    return 0.5 * (1 + jax.lax.erf(math.sqrt(0.5) * x)), density


def _gelu_backward(approximate: bool, x: Array, g: Array) -> tuple[Array]:
    wide_x = x.astype(wide(x.dtype))
    cdf, density = _normal_cdf(wide_x, approximate)
    return ((g * (cdf + wide_x * density)).astype(x.dtype),)


gelu.defvjp(lambda x, approximate: (gelu(x, approximate), x), _gelu_backward)


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
        hidden = Dense(self.hidden, **dense, name="fc1")(x)
        return Dense(x.shape[-1], **dense, name="fc2")(gelu(hidden, self.approximate))
