"""U-ViT (arXiv 2209.12152): a vision transformer with long skips from its early to its late blocks.

Self-conditioning, off by default, is the only addition: without it the parameter tree and the
function are the paper's.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import einops
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from ddaepp_jax.models import remat, self_conditioning
from ddaepp_jax.models.attention import Attention
from ddaepp_jax.models.layers import (
    LINEAR_INIT,
    Dense,
    Mlp,
    PatchConv,
    layer_norm,
    row_major,
    sinusoid,
    wide,
)
from ddaepp_jax.models.self_conditioning import SelfConditioning, pool
from ddaepp_jax.models.tap import Tap


def block_names(depth: int) -> list[str]:
    """Returns the names of a U-ViT's blocks in order: ``in_1 .., mid, out_1 ..``.

    ``depth`` is even and does not count ``mid``, as in the reference.
    """
    half = depth // 2
    return [*(f"in_{i + 1}" for i in range(half)), "mid", *(f"out_{i + 1}" for i in range(half))]


class Block(nn.Module):
    """Pre-norm transformer block, which joins a long skip by a Linear of the concatenation."""

    num_heads: int
    mlp_ratio: float
    qkv_bias: bool
    attention: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, skip: Array | None = None) -> Array:
        """Maps ``x`` (B, L, width), and the skip of the same shape, to that shape."""
        width = x.shape[-1]
        if skip is not None:
            x = jnp.concatenate([x, skip], axis=-1)
            x = Dense(width, kernel_init=LINEAR_INIT, dtype=self.dtype, name="skip_linear")(x)
        attention = Attention(
            self.num_heads, self.qkv_bias, self.attention, self.dtype, name="attn"
        )
        x = x + attention(layer_norm("norm1", self.dtype)(x))
        mlp = Mlp(int(width * self.mlp_ratio), self.dtype, name="mlp")
        return x + mlp(layer_norm("norm2", self.dtype)(x))


class UViT(nn.Module):
    """The U-ViT network, with optional labels and self-conditioning.

    Attributes:
      patch_size: side of a patch, in pixels.
      width: number of channels of a token.
      depth: number of blocks without the middle one, even: one half comes before, one after it.
      num_heads, mlp_ratio: number of heads, and ratio of the MLP's width to the tokens', in each
        block.
      qkv_bias: whether a block's qkv projection has a bias.
      num_classes: number of classes; the embedding has one more row, ``num_classes``, the null
        class. 0: no labels.
      augment_dim: length of the augmentation vector, which enters as a token of its own; 0: none.
      mlp_time_embed: whether an MLP follows the time's sinusoid.
      skip: whether late blocks join early ones.
      conv: whether a 3x3 convolution ends the network.
      self_condition: whether the bottleneck conditions the blocks after it.
      bottleneck: name of the block whose pooled output is the feature ``bottleneck``.
      pool: "mean" over the patch tokens, or "cls": the output of a learned token.
      inject: "add" the condition to the time token at the entry of the next block, or let it enter
        there as a "token" of its own.
      projection, time_scale: see ``SelfConditioning``.
      attention: implementation of the attention product, see ``attention.attention``.
      remat: what the backward pass computes again of a block, one of ``remat.POLICIES``.
      dtype: dtype of the computation; parameters, norms, softmax and the output are float32.
    """

    patch_size: int = 2
    width: int = 512
    depth: int = 12
    num_heads: int = 8
    mlp_ratio: float = 4.0
    qkv_bias: bool = False
    num_classes: int = 0
    augment_dim: int = 0
    mlp_time_embed: bool = False
    skip: bool = True
    conv: bool = True
    self_condition: bool = False
    bottleneck: str = "mid"
    pool: str = "mean"
    inject: str = "add"
    projection: str = "linear"
    time_scale: bool = True
    attention: str = "xla"
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    @nn.nowrap
    def problems(self) -> Iterator[str]:
        """Yields what is wrong with the fields, as "field: value ...; mend"."""
        heads = self.num_heads
        if self.patch_size < 1:
            yield f"patch_size: {self.patch_size} is not positive"
        if self.width < 1 or heads < 1 or self.width % (2 * heads):
            yield f"width: {self.width} is not a multiple of 2 * num_heads ({heads})"
        if self.mlp_ratio <= 0:
            yield f"mlp_ratio: {self.mlp_ratio} is not positive"
        for field, choices in (("pool", ("mean", "cls")), ("inject", ("add", "token"))):
            if getattr(self, field) not in choices:
                yield f"{field}: {getattr(self, field)!r} is not one of {', '.join(choices)}"
        if self.depth < 2 or self.depth % 2:
            yield f"depth: {self.depth} is not a positive even number (blocks in and out, not mid)"
        else:
            names = block_names(self.depth)
            yield from self_conditioning.problems(self, names, last=names[-1])

    @nn.nowrap
    def attention_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """Returns the (length, heads, width of a head) of the attention products on an image.

        Raises:
          ValueError: the image is not a whole number of patches.
        """
        patch = self.patch_size
        if height % patch or width % patch:
            raise ValueError(f"patch_size: {patch} does not divide images of {height}x{width}")
        length = (height // patch) * (width // patch)
        # Tokens beside the patches: the time, and the label, augmentation and CLS if used.
        extras = ("time", self.num_classes, self.augment_dim, self.pool == "cls")
        length += len([extra for extra in extras if extra])
        return [(length, self.num_heads, self.width // self.num_heads)]

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
          x: (B, H, W, C) noisy images; H and W are multiples of ``patch_size``.
          t: (B,) times, in the form that ``time_input`` of the process says.
          y: (B,) int labels in 0..num_classes, where the last one is the null class; None: all
            null.
          augment_label: (B, augment_dim); None: zeros, the label of images that are not augmented.
          train: unused, as U-ViT has no dropout.
          capture: names of the features to return; None: all.
          stop: end after the last block that ``capture`` needs.

        Returns:
          The prediction (B, H, W, C) float32, or None with ``stop``; and the features: the output
          (B, L, width) of each block without extra tokens, then ``bottleneck`` (B, width).

        Raises:
          ValueError: a name of ``bottleneck`` or ``capture`` is unknown.
        """
        del train
        tap = Tap(block_names(self.depth), self.bottleneck, capture, stop)
        time = self._embed_time(t)
        tokens, extras = self._embed(x, time, y, augment_label)
        half = self.depth // 2
        skips = []
        outputs = {}
        for i, name in enumerate(tap.blocks):
            block = self._block(name)
            tokens = block(tokens, skips.pop()) if self.skip and i > half else block(tokens)
            if i < half:
                skips.append(tokens)
            outputs[name] = tokens[:, extras:]
            if name == self.bottleneck:
                pooled = pool(tokens[:, :1] if self.pool == "cls" else outputs[name])
                outputs["bottleneck"] = pooled
                if self.self_condition and tap.conditions:
                    added = self._self_conditioning()(pooled, time)
                    tokens, extras, skips = self._inject(added, tokens, extras, skips)
        out = None if stop else self._unembed(tokens[:, extras:], x.shape)
        return out, tap.features(outputs)

    def _block(self, name: str) -> nn.Module:
        policy = remat.policy(self.remat)
        block = nn.remat(Block, policy=policy) if policy else Block
        return block(
            self.num_heads, self.mlp_ratio, self.qkv_bias, self.attention, self.dtype, name=name
        )

    def _embed_time(self, t: Array) -> Array:
        embedding = sinusoid(t, self.width).astype(self.dtype)
        if self.mlp_time_embed:
            dense = dict(kernel_init=LINEAR_INIT, dtype=self.dtype)
            embedding = nn.silu(nn.Dense(4 * self.width, **dense, name="time_embed_1")(embedding))
            embedding = nn.Dense(self.width, **dense, name="time_embed_2")(embedding)
        return embedding

    def _embed(
        self, x: Array, time: Array, y: Array | None, augment_label: Array | None
    ) -> tuple[Array, int]:
        """Returns the tokens (B, extras + L, width) and the number of extra tokens.

        The time is the last extra token.
        """
        batch = len(x)
        size = self.patch_size
        patches = PatchConv(self.width, size, size, dtype=self.dtype, name="patch_embed")(x)
        extras = [time]
        if self.num_classes:
            y = jnp.full((batch,), self.num_classes, jnp.int32) if y is None else y
            table = nn.Embed(
                self.num_classes + 1,
                self.width,
                embedding_init=nn.initializers.normal(1.0),
                dtype=self.dtype,
                name="label_embed",
            )
            extras.insert(0, table(y))
        if self.augment_dim:
            label = (
                jnp.zeros((batch, self.augment_dim), jnp.float32)
                if augment_label is None
                else augment_label
            )
            dense = nn.Dense(
                self.width,
                use_bias=False,
                kernel_init=LINEAR_INIT,
                dtype=self.dtype,
                name="augment_embed",
            )
            extras.insert(0, dense(label))
        if self.pool == "cls":
            cls = self.param("cls_token", LINEAR_INIT, (1, self.width), jnp.float32).astype(
                self.dtype
            )
            extras.insert(0, jnp.broadcast_to(cls, (batch, self.width)))
        tokens = jnp.concatenate(
            [jnp.stack(extras, 1), einops.rearrange(patches, "b h w c -> b (h w) c")], axis=1
        )
        position = self.param("pos_embed", LINEAR_INIT, (1, *tokens.shape[1:]), jnp.float32)
        return row_major(tokens + position.astype(self.dtype)), len(extras)

    def _self_conditioning(self) -> SelfConditioning:
        return SelfConditioning(
            self.width,
            self.projection,
            self.time_scale,
            zero_init=self.inject == "add",
            dtype=self.dtype,
            name="self_conditioning",
        )

    def _inject(
        self, added: Array, tokens: Array, extras: int, skips: list[Array]
    ) -> tuple[Array, int, list[Array]]:
        """Hands ``added`` (B, width) to the blocks that follow.

        U-ViT has no condition beside its tokens: the time token is the condition, and the residual
        stream carries the sum on.
        """
        if self.inject == "add":
            return tokens.at[:, extras - 1].add(added), extras, skips
        # Earlier blocks have no such token, so their skips bring zeros in its place.
        skips = [jnp.pad(skip, ((0, 0), (1, 0), (0, 0))) for skip in skips]
        return jnp.concatenate([added[:, None], tokens], axis=1), extras + 1, skips

    def _unembed(self, tokens: Array, image_shape: tuple[int, ...]) -> Array:
        _, height, width, channels = image_shape
        p = self.patch_size
        tokens = layer_norm("norm", self.dtype)(tokens)
        pixels = Dense(
            p * p * channels, kernel_init=LINEAR_INIT, dtype=self.dtype, name="decoder_pred"
        )(tokens)
        out = einops.rearrange(
            pixels, "b (h w) (p q c) -> b (h p) (w q) c", h=height // p, w=width // p, p=p, q=p
        ).astype(wide(self.dtype))
        if self.conv:
            dtype = wide(self.dtype)
            out = PatchConv(channels, 3, padding=1, dtype=dtype, name="final_conv")(out)
        return out
