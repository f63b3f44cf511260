"""Self-conditioning: a pooled inner feature joins the time condition of the layers after it (DDAE++, arXiv 2505.10999).

Every backbone computes ``h_k``, the pooled output of its block ``k`` (the bottleneck), and conditions what follows on

    c' = c + s(t) * P(h_k)

``P`` starts at zero, so that a self-conditioned network starts as the plain one, and gradients flow through ``h_k``:
that is what reshapes the features. What the paper leaves open is a field here, with the project's choice as default.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from ddaepp_jax.models.layers import LINEAR_INIT, layer_norm

PROJECTIONS = ("linear", "mlp")


class SelfConditioning(nn.Module):
    """``s(t) * P(h)``: what is added to the condition (or enters as a token of its own).

    Attributes:
      width: channels of the condition.
      projection: "linear" (LayerNorm, Linear) or "mlp" (LayerNorm, Linear, SiLU, Linear).
      time_scale: scale each channel by ``s(t) = Linear(SiLU(time embedding))``, which starts at 1; otherwise s = 1.
      zero_init: start the last layer of ``P`` at zero. A token of its own needs False: a zero token has no direction.
    """

    width: int
    projection: str = "linear"
    time_scale: bool = True
    zero_init: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pooled: Array, time_embedding: Array) -> Array:
        """``pooled`` (B, C), ``time_embedding`` (B, D) -> (B, width)."""
        h = layer_norm("norm", self.dtype)(pooled)
        if self.projection == "mlp":
            h = nn.silu(nn.Dense(self.width, kernel_init=LINEAR_INIT, dtype=self.dtype, name="hidden")(h))
        last_init = nn.initializers.zeros if self.zero_init else LINEAR_INIT
        projected = nn.Dense(self.width, kernel_init=last_init, dtype=self.dtype, name="project")(h)
        if not self.time_scale:
            return projected
        scale = nn.Dense(
            self.width,
            kernel_init=nn.initializers.zeros,
            bias_init=nn.initializers.ones,
            dtype=self.dtype,
            name="scale",
        )(nn.silu(time_embedding))
        return scale * projected
