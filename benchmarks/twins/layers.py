"""Parts that several twins share: the time's sinusoid, attention and the MLP."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoid(t: Tensor, width: int, *, sines_first: bool = False, endpoint: bool = False) -> Tensor:
    """Returns the sinusoidal embedding (B, width) of times (B,), with periods up to 10,000.

    Args:
      t: the times.
      width: number of channels, even.
      sines_first: order the channels as [sin, cos] instead of [cos, sin].
      endpoint: let the lowest frequency be 1 / 10,000 itself.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device) / (half - endpoint)
    angles = t.float()[:, None] * torch.exp(-math.log(10_000.0) * steps)
    waves = [angles.cos(), angles.sin()]
    return torch.cat(waves[::-1] if sines_first else waves, dim=-1)


class Attention(nn.Module):
    """Multi-head self-attention with one projection to queries, keys and values."""

    def __init__(self, width: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotate: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Maps ``x`` (B, L, width) to the same shape; ``rotate`` turns queries and keys."""
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, L, D) each
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    """Linear, GELU, Linear; ``approximate`` is that of ``F.gelu``."""

    def __init__(self, width: int, hidden: int, approximate: str = "none") -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))


class Pooled:
    """Collects pooled features until all that are asked for are there.

    Attributes:
      layers: names of the features; None: none are collected, and nothing is ever complete.
      features: {layer: (B, C)}.
    """

    def __init__(self, layers: tuple[str, ...] | None) -> None:
        self.layers = layers
        self.features: dict[str, Tensor] = {}

    def add(self, name: str, tokens: Tensor, dims: tuple[int, ...]) -> bool:
        """Keeps the mean over ``dims`` if ``name`` is asked for; tells whether all are there."""
        if self.layers is None:
            return False
        if name in self.layers:
            self.features[name] = tokens.float().mean(dims)
        return len(self.features) == len(self.layers)
