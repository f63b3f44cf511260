"""Multi-head self-attention, and an attention product for CPUs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.nn.initializers import Initializer

from ddaepp_jax.models.layers import LINEAR_INIT, Dense, SplitDense, wide

IMPLEMENTATIONS = ("xla", "cudnn", "blocked")
# XLA's CPU backend takes three times as long for a product whose tile of queries and keys is larger
# (JAX 0.10.2: 8 x 8 heads of 257 tokens by 64 channels, 18 ms whole and 7.5 ms in two blocks).
BLOCK = 2**16


def rotated(x: Array, cos: Array, sin: Array) -> Array:
    """Applies the rotary position embedding (arXiv 2104.09864, eq. 34) to ``x`` (B, heads, L, D).

    Channels 2i and 2i + 1 turn together by an angle of the position, whose cosine and sine are
    given for each channel as ``cos`` and ``sin`` (L, D). The computation is in float32.
    """
    # On a TPU, a swap of neighbouring channels takes a fifth of a step; on a GPU it is free.
    turned = jax.lax.platform_dependent(x, cpu=_by_product, tpu=_by_product, default=_by_swap)
    return (x * cos[None, None] + turned * sin[None, None]).astype(x.dtype)


def _by_swap(x: Array) -> Array:
    """Turns the pairs (a, b) of neighbouring channels of ``x`` to (-b, a)."""
    swapped = x.reshape(*x.shape[:-1], -1, 2)[..., ::-1]
    signs = np.array([-1, 1], x.dtype).reshape((1,) * x.ndim + (2,))
    return (swapped * signs).reshape(x.shape)


def _by_product(x: Array) -> Array:
    """Does the same by a product with a constant matrix, which is exact."""
    turn = np.kron(np.eye(x.shape[-1] // 2), [[0, 1], [-1, 0]]).astype(x.dtype)
    return jnp.matmul(x, turn, precision="highest")


def padding(length: int, implementation: str) -> int:
    """Returns the number of tokens to add: cuDNN has no backward pass for an odd length."""
    return length % 2 if implementation == "cudnn" else 0


def attention(
    q: Array, k: Array, v: Array, implementation: str, length: int | None = None
) -> Array:
    """Computes softmax(q k^T / sqrt(D)) v, with logits and softmax in float32.

    Args:
      q, k, v: (B, heads, L, D).
      implementation: "xla" or "cudnn" of ``jax.nn.dot_product_attention``, or "blocked".
      length: number of tokens; those after it are padding, which no token attends to. None: L.
        "blocked" takes no padding.

    Returns:
      (B, heads, L, D) of the same type. Rows of padding have no meaning.
    """
    if implementation == "blocked":
        return blocked_attention(q, k, v)
    padded = length is not None and length < q.shape[2]
    lengths = jnp.full(q.shape[:1], length, jnp.int32) if padded else None
    out = jax.nn.dot_product_attention(
        *(x.swapaxes(1, 2) for x in (q, k, v)),
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation=implementation,
    )
    return out.swapaxes(1, 2)


@jax.custom_vjp
def blocked_attention(q: Array, k: Array, v: Array) -> Array:
    """Computes the same as ``attention`` in blocks of queries, which is fast on a CPU.

    The rows of the softmax are divided by their sums after the product with ``v``, which touches D
    numbers a row and not L (arXiv 2205.14135, algorithm 1). Reverse-mode differentiation only.
    """
    return _forward(q, k, v)[0]


def _blocks(x: Array) -> list[Array]:
    """Splits ``x`` (B, heads, L, D) into nearly equal blocks of rows."""
    length = x.shape[2]
    return jnp.array_split(x, -(-(length**2) // BLOCK), axis=2)


def _product(subscripts: str, a: Array, b: Array) -> Array:
    return jnp.einsum(subscripts, a, b, preferred_element_type=wide(a.dtype))


def _forward(q: Array, k: Array, v: Array) -> tuple[Array, tuple]:
    outs, weights = [], []
    for block in _blocks(q * q.shape[-1] ** -0.5):
        logits = _product("bhqd,bhkd->bhqk", block, k)
        exps = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
        sums = exps.sum(axis=-1, keepdims=True)
        outs.append(_product("bhqk,bhkd->bhqd", exps.astype(v.dtype), v) / sums)
        weights.append((exps, sums))
    out = jnp.concatenate(outs, axis=2).astype(q.dtype)
    return out, (q, k, v, out, weights)


def _backward(saved: tuple, g: Array) -> tuple[Array, Array, Array]:
    """Returns the gradients by q, k and v (arXiv 2205.14135, appendix B.4).

    With P = exps / sums the gradient of the logits is P * (g v^T - sum_d g out).
    """
    q, k, v, out, weights = saved
    scale = q.shape[-1] ** -0.5
    dtype = q.dtype
    dq, dk, dv = [], 0.0, 0.0
    for block, g_b, out_b, (exps, sums) in zip(
        _blocks(q * scale), _blocks(g), _blocks(out), weights, strict=True
    ):
        g_b = g_b / sums
        dv += _product("bhqk,bhqd->bhkd", exps.astype(dtype), g_b.astype(dtype))
        inner = (g_b * out_b).sum(axis=-1, keepdims=True)
        d_logits = exps * (_product("bhqd,bhkd->bhqk", g_b.astype(dtype), v) - inner)
        d_logits = d_logits.astype(dtype)
        dq.append(_product("bhqk,bhkd->bhqd", d_logits, k))
        dk += _product("bhqk,bhqd->bhkd", d_logits, block)
    dq = jnp.concatenate(dq, axis=2) * scale
    return dq.astype(dtype), dk.astype(k.dtype), dv.astype(v.dtype)


blocked_attention.defvjp(_forward, _backward)


class Attention(nn.Module):
    """Multi-head self-attention with one parameter for q, k and v; logits and softmax in float32.

    Attributes:
      num_heads: number of heads, which divides the width.
      qkv_bias: whether the qkv projection has a bias.
      implementation: see ``attention``.
      dtype: dtype of the computation.
      kernel_init, bias_init: initialisers of both projections.
      qk_norm: function of a name that makes the norm of the queries or keys over a head's
        channels; None: no norms.
    """

    num_heads: int
    qkv_bias: bool = False
    implementation: str = "xla"
    dtype: jnp.dtype = jnp.float32
    kernel_init: Initializer = LINEAR_INIT
    bias_init: Initializer = nn.initializers.zeros
    qk_norm: Callable[[str], nn.Module] | None = None

    @nn.compact
    def __call__(self, x: Array, rotation: tuple[Array, Array] | None = None) -> Array:
        """Maps ``x`` (B, L, width) to the same shape.

        Args:
          x: tokens.
          rotation: cosines and sines of the rotary embedding, see ``rotated``; None: none.
        """
        batch, length, width = x.shape
        init = dict(kernel_init=self.kernel_init, bias_init=self.bias_init)
        # XLA pads the tokens while it writes them; to pad q, k and v would take three copies.
        if added := padding(length, self.implementation):
            x = jnp.pad(x, ((0, 0), (0, added), (0, 0)))
            rotation = rotation and tuple(jnp.pad(wave, ((0, added), (0, 0))) for wave in rotation)
        heads = batch, length + added, self.num_heads, width // self.num_heads
        qkv = SplitDense(width, 3, use_bias=self.qkv_bias, dtype=self.dtype, name="qkv", **init)(x)
        q, k, v = (part.reshape(heads).swapaxes(1, 2) for part in qkv)
        if self.qk_norm:
            q = self.qk_norm("q_norm")(q)
            k = self.qk_norm("k_norm")(k)
        if rotation is not None:
            q = rotated(q, *rotation)
            k = rotated(k, *rotation)
        out = attention(q, k, v, self.implementation, length).swapaxes(1, 2)
        out = Dense(width, dtype=self.dtype, name="proj", **init)(out.reshape(x.shape))
        return out[:, :length]
