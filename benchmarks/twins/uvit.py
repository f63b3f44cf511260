"""U-ViT (arXiv 2209.12152) in PyTorch."""

import torch
from torch import Tensor, nn

from twins.layers import Attention, Mlp, Pooled, sinusoid


class Block(nn.Module):
    """Pre-norm transformer block; a late one first joins the long skip."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float, skip: bool) -> None:
        super().__init__()
        self.skip_linear = nn.Linear(2 * width, width) if skip else None
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, num_heads, qkv_bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if self.skip_linear is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class UViT(nn.Module):
    """U-ViT without labels. The arguments have the names that ``load_reference`` takes."""

    def __init__(
        self,
        img_size: int,
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.width = embed_dim
        length = (img_size // patch_size) ** 2

        def block(skip: bool = False) -> Block:
            return Block(embed_dim, num_heads, mlp_ratio, skip)

        self.patch_embed = nn.Sequential()
        self.patch_embed.add_module(
            "proj", nn.Conv2d(in_chans, embed_dim, patch_size, stride=patch_size)
        )
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + length, embed_dim))
        self.in_blocks = nn.ModuleList(block() for _ in range(depth // 2))
        self.mid_block = block()
        self.out_blocks = nn.ModuleList(block(skip=True) for _ in range(depth // 2))
        self.norm = nn.LayerNorm(embed_dim)
        self.decoder_pred = nn.Linear(embed_dim, patch_size**2 * in_chans)
        self.final_layer = nn.Conv2d(in_chans, in_chans, 3, padding=1)

    def forward(
        self, x: Tensor, t: Tensor, layers: tuple[str, ...] | None = None
    ) -> Tensor | dict[str, Tensor]:
        """Maps ``x`` (B, C, H, W) and ``t`` (B,) to the prediction (B, C, H, W).

        With ``layers`` it returns their pooled features {layer: (B, width)}, and ends at the last.
        """
        pooled = Pooled(layers)
        batch, channels, height, width = x.shape
        patches = self.patch_embed(x).flatten(2).transpose(1, 2)
        time = sinusoid(t, self.width).to(patches.dtype)[:, None]
        tokens = torch.cat([time, patches], dim=1) + self.pos_embed
        skips = []
        for i, block in enumerate(self.in_blocks):
            tokens = block(tokens)
            skips.append(tokens)
            if pooled.add(f"in_{i + 1}", tokens[:, 1:], (1,)):
                return pooled.features
        tokens = self.mid_block(tokens)
        if pooled.add("mid", tokens[:, 1:], (1,)):
            return pooled.features
        for i, block in enumerate(self.out_blocks):
            tokens = block(tokens, skips.pop())
            if pooled.add(f"out_{i + 1}", tokens[:, 1:], (1,)):
                return pooled.features
        p = self.patch_size
        pixels = self.decoder_pred(self.norm(tokens[:, 1:]))
        pixels = pixels.view(batch, height // p, width // p, p, p, channels)
        image = pixels.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, height, width)
        return self.final_layer(image).float()
