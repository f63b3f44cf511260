"""DiT (arXiv 2212.09748), and with its options LightningDiT (arXiv 2501.01423), in PyTorch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins.layers import Attention, Mlp, Pooled, sinusoid

TIME_CHANNELS = 256  # channels of the time's sinusoid


def axis_angles(side: int, frequencies: int) -> tuple[Tensor, Tensor]:
    """Returns the angles (side * side, frequencies) of the rows and of the columns of a grid."""
    waves = 10_000.0 ** -(torch.arange(frequencies, dtype=torch.float64) / frequencies)
    place = torch.arange(side, dtype=torch.float64)
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    return torch.outer(rows.flatten(), waves), torch.outer(columns.flatten(), waves)


def positions(side: int, width: int) -> Tensor:
    """Returns the fixed position embedding (1, side * side, width): columns, then rows."""
    rows, columns = axis_angles(side, width // 4)
    waves = [columns.sin(), columns.cos(), rows.sin(), rows.cos()]
    return torch.cat(waves, dim=1).float()[None]


class Rotary(nn.Module):
    """Rotary position embedding (arXiv 2104.09864): half of a head by the row, half by the column.

    Two neighbouring channels turn together.
    """

    def __init__(self, side: int, head_width: int) -> None:
        super().__init__()
        angles = torch.cat(axis_angles(side, head_width // 4), dim=1).repeat_interleave(2, dim=1)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Turns ``x`` (B, heads, L, D)."""
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([-odd, even], dim=-1).flatten(-2)
        return (x * self.cos + turned * self.sin).to(x.dtype)


class SwiGLU(nn.Module):
    """(SiLU(x W_1) * (x W_2)) W_3 (arXiv 2002.05202, eq. 6), with biases."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


def norm(width: int, rmsnorm: bool) -> nn.Module:
    """Returns the norm before a branch."""
    if rmsnorm:
        return nn.RMSNorm(width, eps=1e-6)
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def modulation(width: int, parts: int) -> nn.Sequential:
    """Returns the layers that make ``parts`` vectors of the condition."""
    return nn.Sequential(nn.SiLU(), nn.Linear(width, parts * width))


class Block(nn.Module):
    """adaLN-Zero block: the condition shifts and scales each branch's input, and gates it."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float, lightning: bool) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm1 = norm(width, lightning)
        self.attn = Attention(width, num_heads, qkv_bias=True)
        self.norm2 = norm(width, lightning)
        self.mlp = SwiGLU(width, int(2 / 3 * hidden)) if lightning else Mlp(width, hidden, "tanh")
        self.adaLN_modulation = modulation(width, 6)

    def forward(
        self, x: Tensor, condition: Tensor, rotate: Callable[[Tensor], Tensor] | None
    ) -> Tensor:
        parts = self.adaLN_modulation(condition)[:, None].chunk(6, dim=-1)
        shift, scale, gate = parts[:3]
        x = x + gate * self.attn(self.norm1(x) * (1 + scale) + shift, rotate)
        shift, scale, gate = parts[3:]
        return x + gate * self.mlp(self.norm2(x) * (1 + scale) + shift)


class FinalLayer(nn.Module):
    """The modulated norm and the Linear to a patch's pixels."""

    def __init__(self, width: int, pixels: int, rmsnorm: bool) -> None:
        super().__init__()
        self.norm_final = norm(width, rmsnorm)
        self.linear = nn.Linear(width, pixels)
        self.adaLN_modulation = modulation(width, 2)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition)[:, None].chunk(2, dim=-1)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)


class DiT(nn.Module):
    """DiT without labels. The arguments have the names that ``load_reference`` takes.

    ``lightning`` stands for its three: rotary positions, RMSNorm and SwiGLU.
    """

    def __init__(
        self,
        input_size: int,
        patch_size: int,
        in_channels: int,
        hidden_size: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        lightning: bool,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        side = input_size // patch_size
        self.x_embedder = nn.Sequential()
        self.x_embedder.add_module(
            "proj", nn.Conv2d(in_channels, hidden_size, patch_size, stride=patch_size)
        )
        self.t_embedder = nn.Sequential()
        self.t_embedder.add_module(
            "mlp",
            nn.Sequential(
                nn.Linear(TIME_CHANNELS, hidden_size),
                nn.SiLU(),
                nn.Linear(hidden_size, hidden_size),
            ),
        )
        self.pos_embed = nn.Parameter(positions(side, hidden_size), requires_grad=False)
        self.rotate = Rotary(side, hidden_size // num_heads) if lightning else None
        self.blocks = nn.ModuleList(
            Block(hidden_size, num_heads, mlp_ratio, lightning) for _ in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * in_channels, lightning)

    def forward(
        self, x: Tensor, t: Tensor, layers: tuple[str, ...] | None = None
    ) -> Tensor | dict[str, Tensor]:
        """Maps ``x`` (B, C, H, W) and ``t`` (B,) to the prediction (B, C, H, W).

        With ``layers`` it returns their pooled features {layer: (B, width)}, and ends at the last.
        """
        pooled = Pooled(layers)
        batch, channels, height, width = x.shape
        tokens = self.x_embedder(x).flatten(2).transpose(1, 2) + self.pos_embed
        condition = self.t_embedder(sinusoid(t, TIME_CHANNELS))
        for i, block in enumerate(self.blocks):
            tokens = block(tokens, condition, self.rotate)
            if pooled.add(f"block_{i + 1}", tokens, (1,)):
                return pooled.features
        p = self.patch_size
        pixels = self.final_layer(tokens, condition)
        pixels = pixels.view(batch, height // p, width // p, p, p, channels)
        return pixels.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, height, width).float()
