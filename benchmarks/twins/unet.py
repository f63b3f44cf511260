"""The UNet of DDPM (arXiv 2006.11239) as DDAE (arXiv 2303.09769) uses it, in PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins.layers import Pooled, sinusoid


class Time(nn.Module):
    """Sinusoid, Linear, SiLU, Linear."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.lin1 = nn.Linear(channels, 4 * channels)
        self.lin2 = nn.Linear(4 * channels, 4 * channels)

    def forward(self, t: Tensor) -> Tensor:
        waves = sinusoid(t, self.channels, sines_first=True, endpoint=True)
        return self.lin2(F.silu(self.lin1(waves)))


class Residual(nn.Module):
    """Residual block, conditioned between its two convolutions."""

    def __init__(self, ins: int, outs: int, condition: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(32, ins)
        self.conv1 = nn.Conv2d(ins, outs, 3, padding=1)
        self.time_emb = nn.Sequential(nn.SiLU(), nn.Linear(condition, outs))
        self.norm2 = nn.GroupNorm(32, outs)
        self.conv2 = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(outs, outs, 3, padding=1))
        self.shortcut = nn.Conv2d(ins, outs, 1) if ins != outs else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time_emb(condition)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return self.shortcut(x) + h


class SpatialAttention(nn.Module):
    """Self-attention with one head over all positions, with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels)
        self.projection = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.projection(tokens)[:, None].chunk(3, dim=-1)
        out = self.output(F.scaled_dot_product_attention(q, k, v)[:, 0])
        return x + out.transpose(1, 2).reshape(batch, channels, height, width)


class Stage(nn.Module):
    """A residual block with or without attention, or a change of the resolution."""

    def __init__(
        self,
        res: nn.Module | None = None,
        attn: nn.Module | None = None,
        conv: nn.Module | None = None,
        double: bool = False,
    ) -> None:
        super().__init__()
        self.res = res
        self.attn = attn
        self.conv = conv
        self.double = double

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        if self.conv is not None:
            return self.conv(F.interpolate(x, scale_factor=2) if self.double else x)
        x = self.res(x, condition)
        return x if self.attn is None else self.attn(x)


class UNet(nn.Module):
    """The UNet without labels. The arguments have the names that ``load_reference`` takes."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_channels: int,
        ch_mults: tuple[int, ...],
        is_attn: tuple[bool, ...],
        dropout: float,
        n_blocks: int,
    ) -> None:
        super().__init__()
        condition = 4 * n_channels
        widths = [n_channels * mult for mult in ch_mults]

        def stage(ins: int, outs: int, attend: bool) -> Stage:
            attn = SpatialAttention(outs) if attend else None
            return Stage(Residual(ins, outs, condition, dropout), attn)

        self.image_proj = nn.Conv2d(image_shape[0], n_channels, 3, padding=1)
        self.time_emb = Time(n_channels)
        skips = [n_channels]
        self.down = nn.ModuleList()
        for level, (width, attend) in enumerate(zip(widths, is_attn, strict=True)):
            for _ in range(n_blocks):
                self.down.append(stage(skips[-1], width, attend))
                skips.append(width)
            if level < len(widths) - 1:
                self.down.append(Stage(conv=nn.Conv2d(width, width, 3, stride=2, padding=1)))
                skips.append(width)
        last = widths[-1]
        self.middle = nn.ModuleDict(
            dict(
                res1=Residual(last, last, condition, dropout),
                attn=SpatialAttention(last),
                res2=Residual(last, last, condition, dropout),
            )
        )
        self.up = nn.ModuleList()
        ins = last
        for level, (width, attend) in reversed(list(enumerate(zip(widths, is_attn, strict=True)))):
            for _ in range(n_blocks + 1):
                self.up.append(stage(ins + skips.pop(), width, attend))
                ins = width
            if level:
                conv = nn.Conv2d(width, width, 3, padding=1)
                self.up.append(Stage(conv=conv, double=True))
        self.norm = nn.GroupNorm(8, ins)
        self.final = nn.Conv2d(ins, image_shape[0], 3, padding=1)

    def forward(
        self, x: Tensor, t: Tensor, layers: tuple[str, ...] | None = None
    ) -> Tensor | dict[str, Tensor]:
        """Maps ``x`` (B, C, H, W) and ``t`` (B,) to the prediction (B, C, H, W).

        With ``layers`` it returns their pooled features {layer: (B, c)}, and ends at the last.
        """
        pooled = Pooled(layers)
        condition = self.time_emb(t)
        h = self.image_proj(x)
        skips = [h]
        number = 0
        for stage in self.down:
            h = stage(h, condition)
            skips.append(h)
            if stage.res is not None:
                number += 1
                if pooled.add(f"in_{number}", h, (2, 3)):
                    return pooled.features
        h = self.middle["attn"](self.middle["res1"](h, condition))
        h = self.middle["res2"](h, condition)
        if pooled.add("mid", h, (2, 3)):
            return pooled.features
        number = 0
        for stage in self.up:
            if stage.res is None:
                h = stage(h, condition)
                continue
            h = stage(torch.cat([h, skips.pop()], dim=1), condition)
            number += 1
            if pooled.add(f"out_{number}", h, (2, 3)):
                return pooled.features
        return self.final(F.silu(self.norm(h))).float()
