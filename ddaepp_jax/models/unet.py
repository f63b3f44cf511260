"""The UNet of DDAE (arXiv 2303.09769): that of DDPM or, with residual resampling, of DDPM++.

Self-conditioning and labels, off by default, are the only additions: without them the parameter
tree and the function are the paper's.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from ddaepp_jax.models import remat, self_conditioning
from ddaepp_jax.models.attention import Attention
from ddaepp_jax.models.layers import CONV_INIT, conv_bias_init, sinusoid, wide
from ddaepp_jax.models.self_conditioning import SelfConditioning, pool
from ddaepp_jax.models.tap import Tap


def block_names(mults: tuple[int, ...], blocks: int) -> list[str]:
    """Returns the names of a UNet's blocks in order: ``in_1 .., mid, out_1 ..``.

    The decoder has one block more at each resolution than the encoder.
    """
    ins = len(mults) * blocks
    outs = len(mults) * (blocks + 1)
    return [*(f"in_{i + 1}" for i in range(ins)), "mid", *(f"out_{i + 1}" for i in range(outs))]


class Stage(NamedTuple):
    """One stage of a UNet: a block, or a change of resolution ("down", "up").

    It has ``channels * mult`` channels.
    """

    name: str
    mult: int
    attend: bool = False
    resample: str = ""


def stages(mults: tuple[int, ...], attend: tuple[bool, ...], blocks: int) -> list[Stage]:
    """Returns all stages between the first and the last convolution in order; ``mid`` is two."""
    levels = list(zip(mults, attend, strict=True))
    encoder = []
    decoder = []
    for i, (mult, attends) in enumerate(levels):
        encoder += [Stage(f"in_{i * blocks + j + 1}", mult, attends) for j in range(blocks)]
        encoder.append(Stage(f"down_{i + 1}", mult, resample="down"))
    for i, (mult, attends) in enumerate(reversed(levels)):
        decoder += [
            Stage(f"out_{i * (blocks + 1) + j + 1}", mult, attends) for j in range(blocks + 1)
        ]
        decoder.append(Stage(f"up_{i + 1}", mult, resample="up"))
    mid = [Stage("mid_1", mults[-1], True), Stage("mid_2", mults[-1])]
    return [*encoder[:-1], *mid, *decoder[:-1]]  # No change of resolution ends either half.


def _norm(x: Array, name: str, dtype: jnp.dtype, groups: int = 32) -> Array:
    """Applies GroupNorm with PyTorch's epsilon.

    Statistics and normalisation are in float32, whatever ``dtype`` is.
    """
    return nn.GroupNorm(groups, epsilon=1e-5, dtype=dtype, name=name)(x)


# [a, s, u]: whether row u of a 3x3 kernel meets row s of the two image rows that an output row sees
# after doubling; a = 0 for even output rows and 1 for odd ones.
_MET = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)


def _conv_of_doubled(x: Array, kernel: Array, *args: Any, **options: Any) -> Array:
    """Convolves ``x`` (B, h, w, C), doubled by nearest neighbours, with a 3x3 kernel.

    On a CPU these are four convolutions of the image itself with 2x2 kernels, one for each parity
    of row and column, which need 4/9 of the products. The other arguments are those of
    ``jax.lax.conv_general_dilated``.
    """

    def in_four(x: Array, kernel: Array) -> Array:
        met = _MET.astype(kernel.dtype)
        kernels = jnp.einsum("asu,btv,uvio->abstio", met, met, kernel)
        numbers = {name: options[name] for name in ("dimension_numbers", "precision")}
        outs = [
            jax.lax.conv_general_dilated(
                x, kernels[a, b], (1, 1), ((1 - a, a), (1 - b, b)), **numbers
            )
            for a in (0, 1)
            for b in (0, 1)
        ]
        return einops.rearrange(outs, "(a b) n h w c -> n (h a) (w b) c", a=2)

    def whole(x: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(_doubled(x), kernel, *args, **options)

    return jax.lax.platform_dependent(x, kernel, cpu=in_four, default=whole)


def _conv(
    x: Array,
    width: int,
    name: str,
    dtype: jnp.dtype,
    size: int = 3,
    stride: int = 1,
    doubled: bool = False,
) -> Array:
    """Applies a convolution with ``size // 2`` zeros on every side.

    Stride 2 therefore halves an even image as in PyTorch. With ``doubled``, the image is doubled
    first.
    """
    conv = nn.Conv(
        width,
        (size, size),
        stride,
        padding=size // 2,
        dtype=dtype,
        kernel_init=CONV_INIT,
        bias_init=conv_bias_init(size**2 * x.shape[-1]),
        conv_general_dilated=_conv_of_doubled if doubled else None,
        name=name,
    )
    return conv(x)


def _dense(x: Array, width: int, name: str, dtype: jnp.dtype) -> Array:
    init = dict(kernel_init=CONV_INIT, bias_init=conv_bias_init(x.shape[-1]))
    return nn.Dense(width, dtype=dtype, name=name, **init)(x)


def _halved(x: Array) -> Array:
    return einops.reduce(x, "b (h p) (w q) c -> b h w c", "mean", p=2, q=2)


def _doubled(x: Array) -> Array:
    return einops.repeat(x, "b h w c -> b (h p) (w q) c", p=2, q=2)


RESAMPLE = {"": lambda x: x, "down": _halved, "up": _doubled}


class Block(nn.Module):
    """Residual block, conditioned between its two convolutions, and then self-attention.

    Attributes:
      width: number of channels of the output.
      num_heads: number of heads of the attention over all positions; 0: no attention.
      resample: "down" or "up" halves (mean of 2x2) or doubles (nearest) both branches, as in
        BigGAN; "" does neither.
      dropout: dropout rate before the second convolution; 0 in evaluation.
      attention: implementation of the attention product, see ``attention.attention``.
      dtype: dtype of the computation.
    """

    width: int
    num_heads: int
    resample: str
    dropout: float
    attention: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, condition: Array) -> Array:
        """Maps ``x`` (B, h, w, c) and ``condition`` (B, D) to (B, h', w', width)."""
        resample = RESAMPLE[self.resample]
        h = nn.silu(_norm(x, "norm1", self.dtype))
        if self.resample == "up":
            h = _conv(h, self.width, "conv1", self.dtype, doubled=True)
        else:
            h = _conv(resample(h), self.width, "conv1", self.dtype)
        h = h + _dense(nn.silu(condition), self.width, "condition", self.dtype)[:, None, None]
        h = nn.silu(_norm(h, "norm2", self.dtype))
        with jax.enable_x64(False):  # It draws in JAX's default type.
            h = nn.Dropout(self.dropout, deterministic=False)(h)
        h = _conv(h, self.width, "conv2", self.dtype)
        x = resample(x)
        if x.shape[-1] != self.width:
            x = _conv(x, self.width, "shortcut", self.dtype, size=1)
        return self._attend(x + h) if self.num_heads else x + h

    def _attend(self, x: Array) -> Array:
        tokens = einops.rearrange(_norm(x, "attn_norm", self.dtype), "b h w c -> b (h w) c")
        init = dict(kernel_init=CONV_INIT, bias_init=conv_bias_init(self.width))
        attention = Attention(self.num_heads, True, self.attention, self.dtype, name="attn", **init)
        return x + attention(tokens).reshape(x.shape)


class UNet(nn.Module):
    """The UNet network, with optional labels and self-conditioning.

    The defaults are the 35.7M network of DDPM; the 56.5M one of DDPM++ is ``mults=(2, 2, 2),
    attend=(False, True, False), blocks=4, residual_updown=True, bottleneck="out_5"``.

    Attributes:
      channels: number of channels at the entry, a multiple of 32; level i has ``channels *
        mults[i]``. A block of 32 channels cannot be conditioned: each channel is a group of its own
        in the norm after the condition, which takes the condition out again.
      mults: factor of the channels, by level.
      attend: whether the blocks attend, by level; the middle always does.
      head_channels: number of channels of an attention head, which divides those of every level
        that attends; 0: one head.
      blocks: number of blocks at each level of the encoder; the decoder has one more.
      residual_updown: change the resolution by residual blocks. Otherwise a convolution of stride 2
        halves it, and a convolution after nearest upsampling doubles it.
      dropout: dropout rate in training.
      num_classes: number of classes; the embedding, added to the condition, has one more row,
        ``num_classes``, the null class. 0: no labels.
      augment_dim: length of the augmentation vector, whose projection is added to the time's
        sinusoid; 0: none.
      self_condition: whether the bottleneck conditions the blocks after it.
      bottleneck: name of the block whose pooled output is the feature ``bottleneck``.
      projection, time_scale: see ``SelfConditioning``.
      attention: implementation of the attention product, see ``attention.attention``.
      remat: what the backward pass computes again of a block, one of ``remat.POLICIES``.
        Convolutions are no matrix products.
      dtype: dtype of the computation; parameters, norms, softmax, the condition and the output are
        float32.
    """

    channels: int = 128
    mults: tuple[int, ...] = (1, 2, 2, 2)
    attend: tuple[bool, ...] = (False, True, False, False)
    head_channels: int = 0
    blocks: int = 2
    residual_updown: bool = False
    dropout: float = 0.1
    num_classes: int = 0
    augment_dim: int = 0
    self_condition: bool = False
    bottleneck: str = "out_6"
    projection: str = "linear"
    time_scale: bool = True
    attention: str = "xla"
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    @nn.nowrap
    def attending(self) -> dict[int, int]:
        """Returns {level: channels} of the levels with attention.

        The last level always has attention, in ``mid``.
        """
        levels = [level for level, attends in enumerate(self.attend) if attends]
        return {i: self.channels * self.mults[i] for i in [*levels, len(self.mults) - 1]}

    @nn.nowrap
    def problems(self) -> Iterator[str]:
        """Yields what is wrong with the fields, as "field: value ...; mend"."""
        if self.channels < 32 or self.channels % 32:
            yield f"channels: {self.channels} is not a multiple of 32, the groups of its norms"
        if self.blocks < 1:
            yield f"blocks: {self.blocks} is not positive"
        if not 0 <= self.dropout < 1:
            yield f"dropout: {self.dropout} is not in [0, 1)"
        if not self.mults or min(self.mults) < 1 or len(self.attend) != len(self.mults):
            yield (
                f"attend, mults: {self.attend}, {self.mults} do not match; give a flag and a "
                "positive factor for every resolution"
            )
            return
        widths = set(self.attending().values())
        heads = self.head_channels
        if heads < 0 or (heads and any(width % heads for width in widths)):
            yield f"head_channels: {heads} does not divide {sorted(widths)}"
        if self.blocks > 0:
            names = block_names(self.mults, self.blocks)
            yield from self_conditioning.problems(self, names, last=names[-1])

    @nn.nowrap
    def attention_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """Returns the (length, heads, width of a head) of the attention products on an image.

        Raises:
          ValueError: the image cannot be halved as often as the network does.
        """
        halvings = len(self.mults) - 1
        if height % 2**halvings or width % 2**halvings:
            raise ValueError(
                f"mults: images of {height}x{width} cannot be halved {halvings} times; "
                f"give fewer than {halvings + 1} resolutions"
            )
        shapes = []
        for level, channels in self.attending().items():
            head_width = self.head_channels or channels
            length = (height >> level) * (width >> level)
            shapes.append((length, channels // head_width, head_width))
        return shapes

    @nn.compact
    def __call__(
        self,
        x: Array,
        t: Array,
        y: Array | None = None,
        augment_label: Array | None = None,
        train: bool = False,
        capture: Sequence[str] | None = None,
        stop: bool = False,
    ) -> tuple[Array | None, OrderedDict[str, Array]]:
        """Predicts the diffusion process's target from noisy images.

        Args:
          x: (B, H, W, C) noisy images; H and W are multiples of ``2**(len(mults) - 1)``.
          t: (B,) times, in the form that ``time_input`` of the process says.
          y: (B,) int labels in 0..num_classes, where the last one is the null class; None: all
            null.
          augment_label: (B, augment_dim); None: zeros, the label of images that are not augmented.
          train: whether to drop out, by the rng ``dropout``.
          capture: names of the features to return; None: all.
          stop: end after the last block that ``capture`` needs.

        Returns:
          The prediction (B, H, W, C) float32, or None with ``stop``; and the features: the output
          (B, h, w, c) of each block, its attention included, then ``bottleneck`` (B, c) float32.

        Raises:
          ValueError: a name of ``bottleneck`` or ``capture`` is unknown.
        """
        tap = Tap(block_names(self.mults, self.blocks), self.bottleneck, capture, stop)
        time = self._embed_time(t, augment_label)
        condition = time + self._embed_label(y, len(t)) if self.num_classes else time
        h = _conv(x, self.channels, "image_proj", self.dtype)
        skips = [h]
        outputs = {}
        for stage in stages(self.mults, self.attend, self.blocks):
            if outputs.keys() >= set(tap.blocks):
                break
            if stage.name.startswith("out"):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = self._run(stage, h, condition, self.dropout if train else 0.0)
            if stage.name.startswith(("in", "down")):
                skips.append(h)
            name = "mid" if stage.name == "mid_2" else stage.name
            outputs[name] = h
            if name == self.bottleneck:
                pooled = pool(h)
                outputs["bottleneck"] = pooled
                if self.self_condition and tap.conditions:
                    condition = condition + self._self_conditioning()(pooled, time)
        out = None if stop else self._unembed(h, x.shape[-1])
        return out, tap.features(outputs)

    def _embed_time(self, t: Array, augment_label: Array | None) -> Array:
        """Returns (B, 4 * channels) in float32 or wider.

        bfloat16 cannot tell neighbouring times t/1000 apart.
        """
        dtype = wide(self.dtype)
        width = 4 * self.channels
        embedding = sinusoid(t, self.channels, sines_first=True, endpoint=True)
        if self.augment_dim:
            label = (
                jnp.zeros((len(t), self.augment_dim), jnp.float32)
                if augment_label is None
                else augment_label
            )
            dense = nn.Dense(
                self.channels,
                use_bias=False,
                kernel_init=CONV_INIT,
                dtype=dtype,
                name="augment_embed",
            )
            embedding = embedding + dense(label)
        embedding = nn.silu(_dense(embedding, width, "time_embed_1", dtype))
        return _dense(embedding, width, "time_embed_2", dtype)

    def _embed_label(self, y: Array | None, batch: int) -> Array:
        y = jnp.full((batch,), self.num_classes, jnp.int32) if y is None else y
        init = nn.initializers.normal(1.0)
        return nn.Embed(
            self.num_classes + 1, 4 * self.channels, embedding_init=init, name="label_embed"
        )(y)

    def _run(self, stage: Stage, h: Array, condition: Array, dropout: float) -> Array:
        width = self.channels * stage.mult
        if stage.resample == "down" and not self.residual_updown:
            return _conv(h, width, stage.name, self.dtype, stride=2)
        if stage.resample == "up" and not self.residual_updown:
            return _conv(h, width, stage.name, self.dtype, doubled=True)
        policy = remat.policy(self.remat)
        block = (nn.remat(Block, policy=policy) if policy else Block)(
            width,
            width // (self.head_channels or width) if stage.attend else 0,
            stage.resample,
            dropout,
            self.attention,
            self.dtype,
            name=stage.name,
        )
        return block(h, condition)

    def _self_conditioning(self) -> SelfConditioning:
        return SelfConditioning(
            4 * self.channels,
            self.projection,
            self.time_scale,
            dtype=self.dtype,
            name="self_conditioning",
        )

    def _unembed(self, h: Array, channels: int) -> Array:
        dtype = wide(self.dtype)
        return _conv(nn.silu(_norm(h, "norm", dtype, groups=8)), channels, "final", dtype)
