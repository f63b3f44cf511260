"""Heads that a loss on features stands on: multi-layer perceptrons with batch norm, as MoCo v3's
(arXiv 2104.02057).
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from ddaepp_jax.models.layers import CONV_INIT, conv_bias_init

NORMS = ("batch", "none")


def batch_norm(x: Array, epsilon: float = 1e-5) -> Array:
    """``x`` (B, D) float32 to zero mean and unit variance over the batch, which is the global one
    on any mesh.

    By these statistics alone, in student and teacher: there are no running averages, and no state.
    """
    centred = x - x.mean(axis=0, keepdims=True)
    return centred / jnp.sqrt(jnp.square(centred).mean(axis=0, keepdims=True) + epsilon)


class Head(nn.Module):
    """``depth`` Linears with ReLU between; with batch norm, one follows each Linear, the last
    without scale and bias.

    Attributes:
      depth: number of Linears; 0: the head is the identity.
      hidden: channels between them.
      out: channels of the last; None: as many as the input's.
      norm: "batch", whose Linears have no bias, or "none".
    """

    depth: int
    hidden: int
    out: int | None
    norm: str = "batch"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``x`` (B, D) -> (B, out) float32."""
        x = x.astype(jnp.float32)
        out = x.shape[-1] if self.out is None else self.out
        for i in range(self.depth):
            last, name, fan_in = i == self.depth - 1, f"linear_{i + 1}", x.shape[-1]
            bias = dict(use_bias=self.norm == "none", bias_init=conv_bias_init(fan_in))
            x = nn.Dense(out if last else self.hidden, kernel_init=CONV_INIT, name=name, **bias)(x)
            if self.norm == "batch":
                x = batch_norm(x)
                if not last:
                    x = self._affine(x, f"norm_{i + 1}")
            x = x if last else nn.relu(x)
        return x

    def _affine(self, x: Array, name: str) -> Array:
        width = x.shape[-1:]
        scale = self.param(f"{name}_scale", nn.initializers.ones, width)
        return x * scale[None] + self.param(f"{name}_bias", nn.initializers.zeros, width)[None]
