"""Heads between features and a loss on them: multi-layer perceptrons with batch norm, as in
MoCo v3 (arXiv 2104.02057).
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from ddaepp_jax.models.layers import CONV_INIT, conv_bias_init

NORMS = ("batch", "none")


def batch_norm(x: Array, epsilon: float = 1e-5) -> Array:
    """Normalises ``x`` (B, D) float32 to zero mean and unit variance over the batch.

    The batch is the global one on any mesh. Student and teacher both use the statistics of their
    own batch: there are no running averages, and so no state.
    """
    centred = x - x.mean(axis=0, keepdims=True)
    return centred / jnp.sqrt(jnp.square(centred).mean(axis=0, keepdims=True) + epsilon)


class Head(nn.Module):
    """A multi-layer perceptron with ReLUs between its ``depth`` Linears.

    With batch norm, a norm follows each Linear, the last one without scale and bias.

    Attributes:
      depth: number of Linears; 0: the head is the identity.
      hidden: number of channels between the Linears.
      out: number of channels of the output; None: as many as the input has.
      norm: "batch", where the Linears have no bias, or "none".
    """

    depth: int
    hidden: int
    out: int | None
    norm: str = "batch"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps ``x`` (B, D) to (B, out) float32."""
        x = x.astype(jnp.float32)
        out = x.shape[-1] if self.out is None else self.out
        for i in range(self.depth):
            last = i == self.depth - 1
            linear = nn.Dense(
                out if last else self.hidden,
                use_bias=self.norm == "none",
                kernel_init=CONV_INIT,
                bias_init=conv_bias_init(x.shape[-1]),
                name=f"linear_{i + 1}",
            )
            x = linear(x)
            if self.norm == "batch":
                x = batch_norm(x)
                if not last:
                    x = self._affine(x, f"norm_{i + 1}")
            x = x if last else nn.relu(x)
        return x

    def _affine(self, x: Array, name: str) -> Array:
        width = x.shape[-1:]
        scale = self.param(f"{name}_scale", nn.initializers.ones, width, jnp.float32)
        bias = self.param(f"{name}_bias", nn.initializers.zeros, width, jnp.float32)
        return x * scale[None] + bias[None]
