"""Self-conditioning: a pooled inner feature joins the time condition of the layers after it
(DDAE++, arXiv 2505.10999).

Every backbone computes ``h_k``, the pooled output of its block ``k`` (the bottleneck), and
conditions what follows on

    c' = c + s(t) * P(h_k)

``P`` starts at zero, so that a self-conditioned network starts as the plain one, and gradients flow
through ``h_k``: that is what reshapes the features. What the paper leaves open is a field here,
  with the project's choice as default.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from ddaepp_jax.models.layers import LINEAR_INIT, layer_norm

PROJECTIONS = ("linear", "mlp")


@dataclasses.dataclass(frozen=True, eq=False)
class OneOf:
    """In place of a bottleneck's name: several blocks, of which a number that may be traced says
    which one it is.

    Then the layer is data, and one compiled program serves all of them; the parameters of
    ``SelfConditioning`` are one set, with the tree and the initial values that they have for any
    single one.

    Attributes:
      names: blocks of one width, the candidates.
      number: () int, of one of them.
    """

    names: tuple[str, ...]
    number: Array


def candidates(bottleneck: str | OneOf) -> tuple[str, ...]:
    """Names of the blocks that can be the bottleneck."""
    return (bottleneck,) if isinstance(bottleneck, str) else bottleneck.names


def is_bottleneck(bottleneck: str | OneOf, name: str) -> bool | Array:
    """Whether the block ``name`` is the bottleneck: Python's bool where that is known, else ()
    bool.
    """
    if isinstance(bottleneck, str) or name not in bottleneck.names:
        return name == bottleneck
    return bottleneck.number == bottleneck.names.index(name)


def chosen(here: bool | Array, this: Array, other: Array | float) -> Array:
    """``this`` at the bottleneck, elsewhere ``other``; no operation where Python knows."""
    return this if here is True else jnp.where(here, this, other)


def prefix(names: Sequence[str], capture: Sequence[str] | None, bottleneck: str | OneOf) -> int:
    """How many of the blocks ``names`` a pass runs that stops after the last one of ``capture``.

    Raises:
      ValueError: no capture is given, or a name of it is no block's.
    """
    if capture is None:
        raise ValueError("stop: needs capture, the names of the blocks to stop after")
    wanted = [
        name
        for given in capture
        for name in (candidates(bottleneck) if given == "bottleneck" else (given,))
    ]
    return max((names.index(name) + 1 for name in wanted), default=0)


def problems(network: nn.Module, names: Sequence[str], last: str | None = None) -> Iterator[str]:
    """Yields what is wrong with the fields that all backbones have, as "field: value ...; mend".

    Args:
      network: the backbone, not bound to parameters.
      names: of its blocks.
      last: the block after which nothing can be conditioned.
    """
    for name in candidates(network.bottleneck):
        if name not in names:
            yield f"bottleneck: no block {name!r}; the blocks are {', '.join(names)}"
        elif network.self_condition and name == last:
            yield f"bottleneck: no block follows {name!r} to be conditioned; choose an earlier one"
    if network.projection not in PROJECTIONS:
        yield f"projection: {network.projection!r} is not one of {', '.join(PROJECTIONS)}"
    if network.augment_dim < 0:
        yield f"augment_dim: {network.augment_dim} is negative; 0 is none"


class SelfConditioning(nn.Module):
    """``s(t) * P(h)``: what is added to the condition (or enters as a token of its own).

    Attributes:
      width: channels of the condition.
      projection: "linear" (LayerNorm, Linear) or "mlp" (LayerNorm, Linear, SiLU, Linear).
      time_scale: scale each channel by ``s(t) = Linear(SiLU(time embedding))``, which starts at 1;
        otherwise s = 1.
      zero_init: start the last layer of ``P`` at zero. A token of its own needs False: a zero token
        has no direction.
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
            h = nn.silu(
                nn.Dense(self.width, kernel_init=LINEAR_INIT, dtype=self.dtype, name="hidden")(h)
            )
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
