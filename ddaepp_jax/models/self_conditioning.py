"""Self-conditioning: a pooled inner feature joins the time condition of the layers after it
(DDAE++, arXiv 2505.10999).

Every backbone pools the output ``h`` of one block, its bottleneck, and conditions the layers after
that block on

    c' = c + s(t) * P(pool(h))

``P`` starts at zero, so a self-conditioned network starts as the plain one. Gradients flow through
``pool(h)``, which reshapes the features. The paper leaves the details open: they are fields here,
with this project's choices as defaults.
"""

from collections.abc import Iterator, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from ddaepp_jax.models.layers import LINEAR_INIT, layer_norm, wide

PROJECTIONS = ("linear", "mlp")


def pool(h: Array) -> Array:
    """Averages features (B, ..., C) over all positions; returns (B, C), float32 at least."""
    return h.mean(axis=tuple(range(1, h.ndim - 1)), dtype=wide(h.dtype))


def problems(network: nn.Module, names: Sequence[str], last: str | None = None) -> Iterator[str]:
    """Yields what is wrong with the fields that all backbones have, as "field: value ...; mend".

    Args:
      network: the backbone, not bound to parameters.
      names: names of the network's blocks.
      last: the block after which nothing can be conditioned.
    """
    name = network.bottleneck
    if name not in names:
        yield f"bottleneck: no block {name!r}; the blocks are {', '.join(names)}"
    elif network.self_condition and name == last:
        yield f"bottleneck: no block follows {name!r} to be conditioned; choose an earlier one"
    if network.projection not in PROJECTIONS:
        yield f"projection: {network.projection!r} is not one of {', '.join(PROJECTIONS)}"
    if network.augment_dim < 0:
        yield f"augment_dim: {network.augment_dim} is negative; 0 is none"


class SelfConditioning(nn.Module):
    """``s(t) * P(h)``, which is added to the condition or enters as a token of its own.

    Attributes:
      width: number of channels of the condition.
      projection: ``P``: "linear" (LayerNorm, Linear) or "mlp" (LayerNorm, Linear, SiLU, Linear).
      time_scale: whether ``s(t) = 1 + Linear(SiLU(time embedding))`` scales each channel, with a
        Linear that starts at zero; otherwise s = 1.
      zero_init: whether the last layer of ``P`` starts at zero. A token of its own needs False: a
        zero token has no direction.
      dtype: dtype of the computation.
    """

    width: int
    projection: str = "linear"
    time_scale: bool = True
    zero_init: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pooled: Array, time_embedding: Array) -> Array:
        """Maps ``pooled`` (B, C) and ``time_embedding`` (B, D) to (B, width)."""
        zeros = nn.initializers.zeros
        h = layer_norm("norm", self.dtype)(pooled)
        if self.projection == "mlp":
            hidden = nn.Dense(self.width, kernel_init=LINEAR_INIT, dtype=self.dtype, name="hidden")
            h = nn.silu(hidden(h))
        last_init = zeros if self.zero_init else LINEAR_INIT
        projected = nn.Dense(self.width, kernel_init=last_init, dtype=self.dtype, name="project")(h)
        if not self.time_scale:
            return projected
        # Weight decay pulls this layer to zero, that is, s(t) to 1.
        scale = nn.Dense(self.width, kernel_init=zeros, dtype=self.dtype, name="scale")
        return (1 + scale(nn.silu(time_embedding))) * projected
