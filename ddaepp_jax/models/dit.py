"""DiT (arXiv 2212.09748): a vision transformer conditioned by adaptive layer norms (adaLN-Zero), in
two releases.

The defaults are DiT's. LightningDiT's (arXiv 2501.01423) are the options ``rope, rmsnorm, swiglu``,
and ``qk_norm`` and ``shift=False``, which its paper tries. Self-conditioning, off by default, is
the only other addition: without it the parameter tree and the function are theirs.

The blocks' parameters are one stack, leaves (depth, ...), and run by one scan, which compiles one
block for all; or by a loop, with the same parameters. What is wanted of a block's output travels in
the scan's carry: a captured feature in a slot of its own, the bottleneck as the condition of what
follows. So what a loss keeps for one layer is that layer's, whatever the depth.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from ddaepp_jax.models import self_conditioning
from ddaepp_jax.models.layers import Attention, Mlp, sinusoid, wide
from ddaepp_jax.models.self_conditioning import (
    OneOf,
    SelfConditioning,
    candidates,
    chosen,
    is_bottleneck,
    prefix,
)

XAVIER = nn.initializers.xavier_uniform()
TIME_CHANNELS = 256  # of the time's sinusoid
Turns = tuple[Array, Array] | None  # cosines and sines of the rotary embedding


def block_names(depth: int) -> list[str]:
    """Names of a DiT's blocks in order: ``block_1 ..``."""
    return [f"block_{i + 1}" for i in range(depth)]


def position_embedding(height: int, width: int, channels: int) -> np.ndarray:
    """(H * W, channels) float32: DiT's fixed sinusoids, of the column in the first half and of the
    row in the second.

    ``channels`` is a multiple of 4; each half is [sin, cos].
    """
    frequencies = 10_000.0 ** -(np.arange(channels // 4) / (channels // 4))
    rows, columns = np.divmod(np.arange(height * width), width)
    angles = [np.outer(place, frequencies) for place in (columns, rows)]
    return np.concatenate(
        [wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1
    ).astype(np.float32)


def rotation(height: int, width: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines (H * W, channels) float32 of the rotary embedding in two dimensions
    (EVA-02's).

    Half of a head's ``channels``, a multiple of 4, turn by the row and half by the column; each
    angle is two channels'.
    """
    frequencies = 10_000.0 ** -(np.arange(channels // 4) / (channels // 4))
    places = np.divmod(np.arange(height * width), width)
    angles = np.concatenate(
        [np.repeat(np.outer(place, frequencies), 2, axis=1) for place in places], axis=1
    )
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _norm(name: str, rmsnorm: bool, dtype: jnp.dtype) -> nn.Module:
    """The norm before a branch: RMSNorm with a scale, or LayerNorm without parameters; in
    float32.
    """
    if rmsnorm:
        return nn.RMSNorm(epsilon=1e-6, dtype=dtype, name=name)
    return nn.LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False, dtype=dtype, name=name)


def _qk_norm(name: str, rmsnorm: bool, dtype: jnp.dtype) -> nn.Module:
    """The norm of queries and keys, with parameters either way."""
    return (
        _norm(name, True, dtype) if rmsnorm else nn.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)
    )


def _modulation(
    condition: Array, parts: int, width: int, dtype: jnp.dtype, name: str
) -> list[Array]:
    """``parts`` of (B, 1, width) each, all zero at first."""
    zeros = nn.initializers.zeros
    made = nn.Dense(parts * width, kernel_init=zeros, dtype=dtype, name=name)(nn.silu(condition))
    return jnp.split(made[:, None], parts, axis=-1)


def _modulated(x: Array, scale: Array, shift: Sequence[Array] = ()) -> Array:
    x = x * (1 + scale)
    return x + shift[0] if shift else x


class SwiGLU(nn.Module):
    """SiLU(x W_1) * (x W_2), then W_3 (arXiv 2002.05202, eq. 6), with biases; W_1 and W_2 are one
    projection.
    """

    hidden: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dense = dict(kernel_init=XAVIER, dtype=self.dtype)
        gate, value = jnp.split(nn.Dense(2 * self.hidden, **dense, name="w12")(x), 2, axis=-1)
        return nn.Dense(x.shape[-1], **dense, name="w3")(nn.silu(gate) * value)


class Block(nn.Module):
    """adaLN-Zero block: the condition shifts and scales each branch's input and gates its output,
    at first to zero.
    """

    num_heads: int
    mlp_ratio: float
    qk_norm: bool
    swiglu: bool
    rmsnorm: bool
    shift: bool
    attention: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, condition: Array, turns: Turns) -> Array:
        """``x`` (B, L, width), ``condition`` (B, width), ``turns`` of the rotary embedding -> (B,
        L, width).
        """
        width, each = x.shape[-1], 3 if self.shift else 2
        parts = _modulation(condition, 2 * each, width, self.dtype, "modulation")
        norm = partial(_qk_norm, rmsnorm=self.rmsnorm, dtype=self.dtype) if self.qk_norm else None
        attention = Attention(
            self.num_heads,
            True,
            self.attention,
            self.dtype,
            kernel_init=XAVIER,
            qk_norm=norm,
            name="attn",
        )
        *shift, scale, gate = parts[:each]
        x = x + gate * attention(
            _modulated(_norm("norm1", self.rmsnorm, self.dtype)(x), scale, shift), turns
        )

        hidden = int(width * self.mlp_ratio)
        if self.swiglu:
            mlp = SwiGLU(int(2 / 3 * hidden), self.dtype, name="mlp")
        else:
            mlp = Mlp(hidden, self.dtype, approximate=True, kernel_init=XAVIER, name="mlp")
        *shift, scale, gate = parts[each:]
        return x + gate * mlp(_modulated(_norm("norm2", self.rmsnorm, self.dtype)(x), scale, shift))


class DiT(nn.Module):
    """DiT, with labels where ``num_classes`` is positive, with self-conditioning where
    ``self_condition`` is set.

    Attributes:
      width: a multiple of 4 and of ``num_heads``; with ``rope`` a head's width is a multiple of 4.
      qk_norm, swiglu, rope, rmsnorm, shift: of the blocks: norms of queries and keys; SwiGLU of 2/3
        the hidden width in place of the MLP; rotary positions beside the fixed ones; RMSNorm in
        place of LayerNorm; whether the condition shifts.
      learn_sigma: the output has twice the channels: the second half interpolates the log variance
        of DDPM's step (arXiv 2102.09672, eq. 15). Released DiTs have it; no sampler here reads it,
        and training with it is refused.
      num_classes: classes of the data; the table has one row more, the null class ``num_classes``.
        0: no labels.
      augment_dim: length of the augmentation vector, whose projection is added to the condition. 0:
        none.
      bottleneck: the block whose pooled output is the feature ``bottleneck`` and, with
        ``self_condition``, conditions what follows, the final norm included; or several by name, of
        which a number says which (``OneOf``).
      projection, time_scale: see ``SelfConditioning``.
      attention: implementation of the attention product, "xla" or "cudnn".
      scan: run the blocks by ``lax.scan``; otherwise by a loop, which compiles depth times the
        code.
      remat: recompute each block in the backward pass.
      dtype: of the computation; parameters, norms, softmax, the condition and the output are
        float32.
    """

    patch_size: int = 2
    width: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: float = 4.0
    qk_norm: bool = False
    swiglu: bool = False
    rope: bool = False
    rmsnorm: bool = False
    shift: bool = True
    learn_sigma: bool = False
    num_classes: int = 0
    augment_dim: int = 0
    self_condition: bool = False
    bottleneck: str | OneOf = "block_6"
    projection: str = "linear"
    time_scale: bool = True
    attention: str = "xla"
    scan: bool = True
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.nowrap
    def problems(self) -> Iterator[str]:
        """Yields what is wrong with the fields, as "field: value ...; mend"."""
        heads = self.num_heads
        multiple = 4 if self.rope else 1  # of a head's width
        if self.patch_size < 1:
            yield f"patch_size: {self.patch_size} is not positive"
        if self.width < 1 or heads < 1 or self.width % (multiple * heads) or self.width % 4:
            yield (
                f"width: {self.width} is not a multiple of 4, or not of {multiple} * num_heads "
                f"({heads})"
            )
        if self.mlp_ratio <= 0:
            yield f"mlp_ratio: {self.mlp_ratio} is not positive"
        if self.depth < 1:
            yield f"depth: {self.depth} is not positive"
        else:
            yield from self_conditioning.problems(self, block_names(self.depth))

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
        """Predict from a noisy image or latent.

        Args:
          x: (B, H, W, C), H and W multiples of ``patch_size``.
          t: (B,) time, as ``time_input`` of the process gives it.
          y: (B,) int labels in 0..num_classes (the last is null); None is the null class.
          augment_label: (B, augment_dim); None is the zero vector, that of a clean image.
          train: part of the networks' contract; DiT's only dropout is of labels, which the
            objective does.
          capture: names of the features that are returned; None: all.
          stop: run no further than the last block that ``capture`` names (it must be given);
            ``out`` is None.

        Returns:
          ``out`` (B, H, W, C), or 2 C with ``learn_sigma``, float32, None with ``stop``; and the
          features: blocks' (B, L, width), and ``bottleneck`` (B, width).
        """
        del train
        names = block_names(self.depth)
        for name in candidates(self.bottleneck):
            if name not in names:
                raise ValueError(f"bottleneck: no block {name!r}; there is {', '.join(names)}")
        count = prefix(names, capture, self.bottleneck) if stop else self.depth
        batch, height, width, channels = x.shape
        rows, columns = height // self.patch_size, width // self.patch_size
        time = self._embed_time(t)
        condition = time + self._embed_labels(y, augment_label, batch)
        turns = None
        if self.rope:
            turns = tuple(
                jnp.asarray(wave) for wave in rotation(rows, columns, self.width // self.num_heads)
            )
        tokens = self._embed(x, rows, columns)

        order = [*names, "bottleneck"] if capture is None else list(capture)
        run = self._scanned if self.scan else self._looped
        tokens, condition, found = run(order, count, tokens, condition, time, turns)
        features = OrderedDict((name, found[name]) for name in order)
        if stop:
            return None, features
        out_channels = 2 * channels if self.learn_sigma else channels
        return self._unembed(tokens, condition, rows, columns, out_channels), features

    def _blocks(
        self, tokens: Array, condition: Array, turns: Turns
    ) -> tuple[Any, Callable[..., Array]]:
        """The stack of the blocks' parameters, and a function of tokens, condition and one
        block's.
        """
        block = Block(
            self.num_heads,
            self.mlp_ratio,
            self.qk_norm,
            self.swiglu,
            self.rmsnorm,
            self.shift,
            self.attention,
            self.dtype,
            parent=None,
        )
        init = lambda key: block.init(key, tokens[:1], condition[:1], turns)["params"]
        stack = self.param("blocks", lambda rng: jax.vmap(init)(jax.random.split(rng, self.depth)))
        apply = lambda tokens, condition, params: block.apply(
            {"params": params}, tokens, condition, turns
        )
        # In a scan, nothing outside of the body can be shared with what is recomputed.
        return stack, jax.checkpoint(apply, prevent_cse=not self.scan) if self.remat else apply

    def _pooling(
        self, time: Array, conditions: bool
    ) -> Callable[[Array, Array], tuple[Array, Array]]:
        """A function of the bottleneck's tokens and the condition: the pooled feature, and the
        condition after it.
        """
        dtype = wide(self.dtype)
        conditioning = SelfConditioning(
            self.width, self.projection, self.time_scale, dtype=self.dtype, parent=None
        )
        pooled = jnp.zeros(time.shape, dtype)
        params = None
        if conditions:
            params = self.param(
                "self_conditioning", lambda rng: conditioning.init(rng, pooled, time)["params"]
            )

        def pool(tokens: Array, condition: Array) -> tuple[Array, Array]:
            pooled = tokens.mean(axis=1, dtype=dtype)
            if conditions:
                condition = condition + conditioning.apply({"params": params}, pooled, time).astype(
                    condition.dtype
                )
            return pooled, condition

        return pool

    def _conditions(self, count: int) -> bool:
        """Whether the bottleneck conditions something of a pass through the first ``count``
        blocks.
        """
        first = min(block_names(self.depth).index(name) for name in candidates(self.bottleneck))
        return self.self_condition and (count == self.depth or first + 1 < count)

    def _scanned(
        self,
        wanted: Sequence[str],
        count: int,
        tokens: Array,
        condition: Array,
        time: Array,
        turns: Turns,
    ) -> tuple[Array, Array, dict[str, Array]]:
        """Tokens and condition after the first ``count`` blocks, and what was wanted by name."""
        stack, apply = self._blocks(tokens, condition, turns)
        if count < self.depth:
            stack = jax.tree.map(lambda leaf: leaf[:count], stack)
        conditions, names = self._conditions(count), block_names(self.depth)
        pool, pools = self._pooling(time, conditions), conditions or "bottleneck" in wanted
        places = [names.index(name) for name in candidates(self.bottleneck)]
        last = (
            places[0]
            if isinstance(self.bottleneck, str)
            else jnp.array(places)[self.bottleneck.number]
        )
        captured = [name for name in names if name in wanted]
        # Of each block, its slot; one more slot takes what nobody wants.
        slots = jnp.array(
            [captured.index(name) if name in wanted else len(captured) for name in names]
        )

        def body(carry: Any, given: Any) -> tuple[Any, None]:
            tokens, condition, pooled, kept = carry
            number, params = given
            tokens = apply(tokens, condition, params)
            if captured:
                kept = kept.at[slots[number]].set(tokens)
            if pools:
                here, before = lambda: pool(tokens, condition), lambda: (pooled, condition)
                pooled, condition = jax.lax.cond(number == last, here, before)
            return (tokens, condition, pooled, kept), None

        kept = jnp.zeros((len(captured) + 1, *tokens.shape), tokens.dtype) if captured else None
        carry = (tokens, condition, jnp.zeros(time.shape, wide(self.dtype)), kept)
        (tokens, condition, pooled, kept), _ = jax.lax.scan(body, carry, (jnp.arange(count), stack))
        return (
            tokens,
            condition,
            {name: kept[i] for i, name in enumerate(captured)} | {"bottleneck": pooled},
        )

    def _looped(
        self,
        wanted: Sequence[str],
        count: int,
        tokens: Array,
        condition: Array,
        time: Array,
        turns: Turns,
    ) -> tuple[Array, Array, dict[str, Array]]:
        """The same, block by block: depth times the code, and what nobody wants is never kept."""
        del wanted
        stack, apply = self._blocks(tokens, condition, turns)
        pool, found = self._pooling(time, self._conditions(count)), {"bottleneck": 0.0}
        # One split, whose transpose joins the gradients; those of a slice a block would add up
        # whole stacks.
        leaves, structure = jax.tree.flatten(stack)
        blocks = zip(*(jax.lax.split(leaf, (1,) * self.depth) for leaf in leaves), strict=True)
        for name, parts in itertools.islice(
            zip(block_names(self.depth), blocks, strict=True), count
        ):
            tokens = apply(
                tokens, condition, jax.tree.unflatten(structure, [part[0] for part in parts])
            )
            found[name] = tokens
            here = is_bottleneck(self.bottleneck, name)
            if here is not False:
                pooled, after = pool(tokens, condition)
                found["bottleneck"] = chosen(here, pooled, found["bottleneck"])
                condition = chosen(here, after, condition)
        return tokens, condition, found

    def _embed(self, x: Array, rows: int, columns: int) -> Array:
        p = self.patch_size
        patches = einops.rearrange(x, "b (h p) (w q) c -> b (h w) (p q c)", p=p, q=p)
        tokens = nn.Dense(self.width, kernel_init=XAVIER, dtype=self.dtype, name="patch_embed")(
            patches
        )
        # Fixed, though a parameter, as in the reference: it is saved and counted, and has no
        # gradient.
        position = self.param(
            "pos_embed", lambda _: jnp.asarray(position_embedding(rows, columns, self.width))[None]
        )
        return tokens + jax.lax.stop_gradient(position).astype(self.dtype)

    def _embed_time(self, t: Array) -> Array:
        """(B, width), at least float32: of nearby times, bfloat16 would take several for one."""
        dense = dict(kernel_init=nn.initializers.normal(0.02), dtype=wide(self.dtype))
        hidden = nn.silu(
            nn.Dense(self.width, **dense, name="time_embed_1")(sinusoid(t, TIME_CHANNELS))
        )
        return nn.Dense(self.width, **dense, name="time_embed_2")(hidden)

    def _embed_labels(self, y: Array | None, augment_label: Array | None, batch: int) -> Array:
        """(B, width) of the class and of the augmentation, each where the network takes it."""
        embedding = jnp.zeros((batch, self.width))
        init = nn.initializers.normal(0.02)
        if self.num_classes:
            y = jnp.full((batch,), self.num_classes) if y is None else y
            embedding += nn.Embed(
                self.num_classes + 1, self.width, embedding_init=init, name="label_embed"
            )(y)
        if self.augment_dim:
            label = jnp.zeros((batch, self.augment_dim)) if augment_label is None else augment_label
            embedding += nn.Dense(
                self.width, use_bias=False, kernel_init=init, name="augment_embed"
            )(label)
        return embedding

    def _unembed(
        self, tokens: Array, condition: Array, rows: int, columns: int, channels: int
    ) -> Array:
        p, dtype = self.patch_size, wide(self.dtype)
        shift, scale = _modulation(condition, 2, self.width, dtype, "final_modulation")
        tokens = _modulated(_norm("final_norm", self.rmsnorm, dtype)(tokens), scale, [shift])
        zeros = nn.initializers.zeros
        pixels = nn.Dense(p * p * channels, kernel_init=zeros, dtype=dtype, name="final_linear")(
            tokens
        )
        return einops.rearrange(
            pixels, "b (h w) (p q c) -> b (h p) (w q) c", h=rows, w=columns, p=p, q=p
        )
