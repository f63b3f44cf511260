"""DiT (arXiv 2212.09748): a vision transformer conditioned by adaptive layer norms (adaLN-Zero).

The defaults are DiT's. The options ``rope, rmsnorm, swiglu`` make it LightningDiT (arXiv
2501.01423), whose paper also tries ``qk_norm`` and ``shift=False``. Self-conditioning, off by
default, is the only other addition: without it the parameter tree and the function are theirs.

The parameters of all blocks are one stack of leaves (depth, ...), which ``lax.scan`` runs through;
unrolled, it compiles depth times the code. Captured features travel in the scan's carry, each in a
slot of its own, so a loss on one layer keeps that layer's tokens alive and no others.
"""

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

from ddaepp_jax.models import remat, self_conditioning
from ddaepp_jax.models.attention import Attention
from ddaepp_jax.models.layers import Dense, Mlp, SplitDense, layer_norm, sinusoid, wide
from ddaepp_jax.models.self_conditioning import SelfConditioning, pool
from ddaepp_jax.models.tap import Tap

XAVIER = nn.initializers.xavier_uniform()
TIME_CHANNELS = 256  # channels of the time's sinusoid
Rotation = tuple[Array, Array] | None  # cosines and sines of the rotary embedding


def block_names(depth: int) -> list[str]:
    """Returns the names of a DiT's blocks in order: ``block_1 ..``."""
    return [f"block_{i + 1}" for i in range(depth)]


def position_embedding(height: int, width: int, channels: int) -> np.ndarray:
    """Computes DiT's fixed position embedding, (H * W, channels) float32.

    The first half of the channels, a multiple of 4 in all, are sinusoids of the column, the second
    half of the row; each half is [sin, cos].
    """
    frequencies = 10_000.0 ** -(np.arange(channels // 4) / (channels // 4))
    rows, columns = np.divmod(np.arange(height * width), width)
    angles = [np.outer(place, frequencies) for place in (columns, rows)]
    return np.concatenate(
        [wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1
    ).astype(np.float32)


def rotation(height: int, width: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Computes the cosines and sines of EVA-02's rotary embedding, (H * W, channels) float32 each.

    Half of a head's ``channels``, a multiple of 4, turn by the row and half by the column; two
    neighbouring channels share an angle.
    """
    frequencies = 10_000.0 ** -(np.arange(channels // 4) / (channels // 4))
    places = np.divmod(np.arange(height * width), width)
    angles = np.concatenate(
        [np.repeat(np.outer(place, frequencies), 2, axis=1) for place in places], axis=1
    )
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _norm(name: str, rmsnorm: bool, dtype: jnp.dtype) -> nn.Module:
    """Makes the norm before a branch: RMSNorm with a scale, or LayerNorm without parameters.

    Statistics and normalisation are in float32, whatever ``dtype`` is.
    """
    if rmsnorm:
        return nn.RMSNorm(epsilon=1e-6, dtype=dtype, name=name)
    return nn.LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False, dtype=dtype, name=name)


def _qk_norm(name: str, rmsnorm: bool, dtype: jnp.dtype) -> nn.Module:
    """Makes the norm of queries or keys, which has parameters either way."""
    return _norm(name, True, dtype) if rmsnorm else layer_norm(name, dtype)


def _modulation(
    condition: Array, parts: int, width: int, dtype: jnp.dtype, name: str
) -> list[Array]:
    """Projects the condition (B, D) to ``parts`` of (B, 1, width), which are zero at first."""
    zeros = nn.initializers.zeros
    dense = nn.Dense(parts * width, kernel_init=zeros, dtype=dtype, name=name)
    return jnp.split(dense(nn.silu(condition))[:, None], parts, axis=-1)


def _modulated(x: Array, scale: Array, shift: Sequence[Array] = ()) -> Array:
    x = x * (1 + scale)
    return x + shift[0] if shift else x


class SwiGLU(nn.Module):
    """(SiLU(x W_1) * (x W_2)) W_3 (arXiv 2002.05202, eq. 6), with biases.

    W_1 and W_2 lie side by side in one parameter; the output is as wide as the input. The hidden
    channels are padded with zeros to a multiple of ``multiple``.
    """

    hidden: int
    multiple: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dense = dict(kernel_init=XAVIER, dtype=self.dtype)
        spare = -self.hidden % self.multiple
        gate, value = SplitDense(self.hidden, 2, spare=spare, **dense, name="w12")(x)
        hidden = nn.silu(gate) * value
        return SplitDense(x.shape[-1], inputs=self.hidden, **dense, name="w3")(hidden)[0]


class Block(nn.Module):
    """adaLN-Zero block: the condition shifts and scales each branch's input and gates its output.

    The gates are zero at first. The attributes are those of ``DiT``.
    """

    num_heads: int
    mlp_ratio: float
    qk_norm: bool
    swiglu: bool
    swiglu_multiple: int
    rmsnorm: bool
    shift: bool
    attention: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, condition: Array, rotation: Rotation) -> Array:
        """Maps ``x`` (B, L, width), by ``condition`` (B, width), to (B, L, width)."""
        width = x.shape[-1]
        each = 3 if self.shift else 2
        parts = _modulation(condition, 2 * each, width, self.dtype, "modulation")
        qk_norm = partial(_qk_norm, rmsnorm=self.rmsnorm, dtype=self.dtype)
        attention = Attention(
            self.num_heads,
            True,
            self.attention,
            self.dtype,
            kernel_init=XAVIER,
            qk_norm=qk_norm if self.qk_norm else None,
            name="attn",
        )
        *shift, scale, gate = parts[:each]
        normed = _norm("norm1", self.rmsnorm, self.dtype)(x)
        x = x + gate * attention(_modulated(normed, scale, shift), rotation)

        hidden = int(width * self.mlp_ratio)
        if self.swiglu:
            mlp = SwiGLU(int(2 / 3 * hidden), self.swiglu_multiple, self.dtype, name="mlp")
        else:
            mlp = Mlp(hidden, self.dtype, approximate=True, kernel_init=XAVIER, name="mlp")
        *shift, scale, gate = parts[each:]
        normed = _norm("norm2", self.rmsnorm, self.dtype)(x)
        return x + gate * mlp(_modulated(normed, scale, shift))


class DiT(nn.Module):
    """The DiT network, with optional labels and self-conditioning.

    Attributes:
      patch_size: side of a patch, in pixels.
      width: number of channels of a token, a multiple of 4 and of ``num_heads``; with ``rope`` the
        width of a head is a multiple of 4.
      depth: number of blocks.
      num_heads, mlp_ratio: number of heads, and ratio of the MLP's width to the tokens', in each
        block.
      qk_norm: whether to normalise queries and keys.
      swiglu: whether SwiGLU, with 2/3 of the hidden width, replaces the MLP.
      swiglu_multiple: its hidden channels are padded to a multiple of this, which changes no
        number.
      rope: whether rotary positions are used beside the fixed ones.
      rmsnorm: whether RMSNorm replaces LayerNorm.
      shift: whether the condition shifts a branch's input, beside scaling it.
      learn_sigma: whether the output has twice the channels, of which the second half interpolates
        the log variance of DDPM's step (arXiv 2102.09672, eq. 15). Released DiTs have it; no
        sampler here reads it, and training with it is refused.
      num_classes: number of classes; the embedding has one more row, ``num_classes``, the null
        class. 0: no labels.
      augment_dim: length of the augmentation vector, whose projection is added to the condition;
        0: none.
      self_condition: whether the bottleneck conditions what follows, the final norm included.
      bottleneck: name of the block whose pooled output is the feature ``bottleneck``.
      projection, time_scale: see ``SelfConditioning``.
      attention: implementation of the attention product, see ``attention.attention``.
      scan: whether one compiled block serves all; otherwise the scan is unrolled, which compiles
        depth times the code.
      remat: what the backward pass computes again, one of ``remat.POLICIES``. A scan with "none"
        keeps the results of the products with parameters and computes the rest again.
      dtype: dtype of the computation; parameters, norms, softmax, the condition and the output are
        float32.
    """

    patch_size: int = 2
    width: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: float = 4.0
    qk_norm: bool = False
    swiglu: bool = False
    swiglu_multiple: int = 1
    rope: bool = False
    rmsnorm: bool = False
    shift: bool = True
    learn_sigma: bool = False
    num_classes: int = 0
    augment_dim: int = 0
    self_condition: bool = False
    bottleneck: str = "block_6"
    projection: str = "linear"
    time_scale: bool = True
    attention: str = "xla"
    scan: bool = True
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    @nn.nowrap
    def problems(self) -> Iterator[str]:
        """Yields what is wrong with the fields, as "field: value ...; mend"."""
        heads = self.num_heads
        multiple = 4 if self.rope else 1  # A head's width is a multiple of this.
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
        """Predicts the diffusion process's target from noisy images or latents.

        Args:
          x: (B, H, W, C) noisy images; H and W are multiples of ``patch_size``.
          t: (B,) times, in the form that ``time_input`` of the process says.
          y: (B,) int labels in 0..num_classes, where the last one is the null class; None: all
            null.
          augment_label: (B, augment_dim); None: zeros, the label of images that are not augmented.
          train: unused, as DiT drops out labels only, which the objective does.
          capture: names of the features to return; None: all.
          stop: end after the last block that ``capture`` needs.

        Returns:
          The prediction (B, H, W, C) float32, with 2 C channels where ``learn_sigma`` is set, or
          None with ``stop``; and the features: the output (B, L, width) of each block, then
          ``bottleneck`` (B, width).

        Raises:
          ValueError: a name of ``bottleneck`` or ``capture`` is unknown.
        """
        del train
        tap = Tap(block_names(self.depth), self.bottleneck, capture, stop)
        batch, height, width, channels = x.shape
        grid = (height // self.patch_size, width // self.patch_size)
        time = self._embed_time(t)
        condition = time + self._embed_labels(y, augment_label, batch)
        tokens = self._embed(x, grid)
        tokens, condition, outputs = self._run(tap, tokens, condition, time, grid)
        features = tap.features(outputs)
        if stop:
            return None, features
        out_channels = 2 * channels if self.learn_sigma else channels
        return self._unembed(tokens, condition, grid, out_channels), features

    def _run(
        self, tap: Tap, tokens: Array, condition: Array, time: Array, grid: tuple[int, int]
    ) -> tuple[Array, Array, dict[str, Array]]:
        """Returns tokens and condition after the last block of the pass, and captured outputs."""
        block, params = self._block(tokens, condition, grid)
        conditions = self.self_condition and tap.conditions
        self_conditioning = self._self_conditioning(time) if conditions else None
        bottleneck = tap.names.index(self.bottleneck)
        pools = conditions or "bottleneck" in tap.captured
        # Each captured block has a slot of ``kept``; -1: the block is not captured.
        captured = [name for name in tap.blocks if name in tap.captured]
        slots = [captured.index(name) if name in captured else -1 for name in tap.blocks]

        def at_bottleneck(tokens: Array, condition: Array) -> tuple[Array, Array]:
            pooled = pool(tokens)
            if conditions:
                condition = condition + self_conditioning(pooled, time)
            return pooled, condition

        def body(carry: Any, x: Any) -> tuple[Any, None]:
            tokens, condition, pooled, kept = carry
            number, slot, params = x
            tokens = block(params, tokens, condition)
            if captured:
                kept = jax.lax.cond(slot >= 0, lambda: kept.at[slot].set(tokens), lambda: kept)
            if pools:
                pooled, condition = jax.lax.cond(
                    number == bottleneck,
                    lambda: at_bottleneck(tokens, condition),
                    lambda: (pooled, condition),
                )
            return (tokens, condition, pooled, kept), None

        length = len(tap.blocks)
        pooled = jnp.zeros(time.shape, wide(self.dtype))
        kept = jnp.zeros((len(captured), *tokens.shape), tokens.dtype) if captured else None
        # Numbers in NumPy: where the scan is unrolled, XLA then knows each condition.
        numbers = (np.arange(length, dtype=np.int32), np.array(slots, np.int32))
        (tokens, condition, pooled, kept), _ = jax.lax.scan(
            body,
            (tokens, condition, pooled, kept),
            (*numbers, jax.tree.map(lambda leaf: leaf[:length], params)),
            unroll=1 if self.scan else max(length, 1),
        )
        outputs = {name: kept[i] for i, name in enumerate(captured)}
        return tokens, condition, outputs | {"bottleneck": pooled}

    def _block(
        self, tokens: Array, condition: Array, grid: tuple[int, int]
    ) -> tuple[Callable[[Any, Array, Array], Array], Any]:
        """Returns a block and the parameters of all blocks.

        The block is a function ``apply(params, tokens, condition)``; the parameters are stacked.
        """
        turns = None
        if self.rope:
            waves = rotation(*grid, self.width // self.num_heads)
            turns = tuple(jnp.asarray(wave) for wave in waves)
        block = Block(
            self.num_heads,
            self.mlp_ratio,
            self.qk_norm,
            self.swiglu,
            self.swiglu_multiple,
            self.rmsnorm,
            self.shift,
            self.attention,
            self.dtype,
            parent=None,
        )

        def init(rng: Array) -> Any:
            return block.init(rng, tokens[:1], condition[:1], turns)["params"]

        def apply(params: Any, tokens: Array, condition: Array) -> Array:
            return block.apply({"params": params}, tokens, condition, turns)

        params = self.param("blocks", lambda rng: jax.vmap(init)(jax.random.split(rng, self.depth)))
        policy = remat.policy(self.remat)
        if self.scan and policy is None:
            # A scan copies what it keeps for the backward pass into stacks. The results of products
            # are worth that; what lies between them is sooner computed again.
            policy = remat.policy("dots_with_no_batch_dims_saveable")
        if policy:
            # In a scan, the recomputation can share nothing with code outside the body.
            apply = jax.checkpoint(apply, prevent_cse=not self.scan, policy=policy)
        return apply, params

    def _self_conditioning(self, time: Array) -> Callable[[Array, Array], Array]:
        """Returns ``SelfConditioning`` as a function, which a scan can call."""
        module = SelfConditioning(
            self.width, self.projection, self.time_scale, dtype=self.dtype, parent=None
        )
        init = lambda rng: module.init(rng, jnp.zeros(time.shape, wide(self.dtype)), time)["params"]
        params = self.param("self_conditioning", init)
        return lambda pooled, time: module.apply({"params": params}, pooled, time)

    def _embed(self, x: Array, grid: tuple[int, int]) -> Array:
        p = self.patch_size
        patches = einops.rearrange(x, "b (h p) (w q) c -> b (h w) (p q c)", p=p, q=p)
        dense = Dense(self.width, kernel_init=XAVIER, dtype=self.dtype, name="patch_embed")
        # The positions are a parameter without a gradient, as in the reference: saved and counted.
        position = self.param(
            "pos_embed", lambda _: jnp.asarray(position_embedding(*grid, self.width))[None]
        )
        return dense(patches) + jax.lax.stop_gradient(position).astype(self.dtype)

    def _embed_time(self, t: Array) -> Array:
        """Returns (B, width), float32 at least: bfloat16 cannot tell neighbouring times apart."""
        init = nn.initializers.normal(0.02)
        dense = partial(nn.Dense, self.width, kernel_init=init, dtype=wide(self.dtype))
        hidden = dense(name="time_embed_1")(sinusoid(t, TIME_CHANNELS))
        return dense(name="time_embed_2")(nn.silu(hidden))

    def _embed_labels(self, y: Array | None, augment_label: Array | None, batch: int) -> Array:
        """Returns (B, width), the sum of the embeddings of class and augmentation."""
        embedding = jnp.zeros((batch, self.width), jnp.float32)
        init = nn.initializers.normal(0.02)
        if self.num_classes:
            y = jnp.full((batch,), self.num_classes, jnp.int32) if y is None else y
            embedding += nn.Embed(
                self.num_classes + 1, self.width, embedding_init=init, name="label_embed"
            )(y)
        if self.augment_dim:
            label = (
                jnp.zeros((batch, self.augment_dim), jnp.float32)
                if augment_label is None
                else augment_label
            )
            embedding += nn.Dense(
                self.width, use_bias=False, kernel_init=init, name="augment_embed"
            )(label)
        return embedding

    def _unembed(
        self, tokens: Array, condition: Array, grid: tuple[int, int], channels: int
    ) -> Array:
        p = self.patch_size
        dtype = wide(self.dtype)
        zeros = nn.initializers.zeros
        shift, scale = _modulation(condition, 2, self.width, dtype, "final_modulation")
        tokens = _modulated(_norm("final_norm", self.rmsnorm, dtype)(tokens), scale, [shift])
        dense = Dense(p * p * channels, kernel_init=zeros, dtype=dtype, name="final_linear")
        return einops.rearrange(
            dense(tokens), "b (h w) (p q c) -> b (h p) (w q) c", h=grid[0], w=grid[1], p=p, q=p
        )
