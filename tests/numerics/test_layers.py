"""Layers against closed forms in float64, and against Flax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy.special import erf, softmax

from ddaepp_jax.models.attention import Attention, _by_product, _by_swap, attention
from ddaepp_jax.models.dit import SwiGLU
from ddaepp_jax.models.layers import CONV_INIT, Dense, PatchConv, SplitDense, conv_bias_init, gelu


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("length", [5, 300], ids=["whole", "in_two_blocks"])
def test_blocked_attention_against_float64(length):
    """Values against softmax(q k^T / sqrt(D)) v, and gradients against its derivative."""
    q, k, v, g = (drawn(2, 3, length, 8, seed=seed) for seed in range(4))
    out, vjp = jax.vjp(lambda *x: attention(*x, "blocked"), q, k, v)
    wide = [x.astype(np.float64) for x in (q, k, v, g)]
    weights = softmax(wide[0] @ wide[1].swapaxes(2, 3) / 8**0.5, axis=-1)
    np.testing.assert_allclose(out, weights @ wide[2], rtol=0, atol=2e-6)
    d_weights = wide[3] @ wide[2].swapaxes(2, 3)
    d_logits = weights * (d_weights - (d_weights * weights).sum(-1, keepdims=True)) / 8**0.5
    expected = d_logits @ wide[1], d_logits.swapaxes(2, 3) @ wide[0]
    for actual, exact in zip(vjp(g), (*expected, weights.swapaxes(2, 3) @ wide[3]), strict=True):
        np.testing.assert_allclose(actual, exact, rtol=0, atol=5e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_blocked_attention_is_that_of_jax(dtype):
    q, k, v = (jnp.asarray(30 * drawn(2, 3, 7, 8, seed=seed), dtype) for seed in range(3))
    blocked, xla = (attention(q, k, v, name) for name in ("blocked", "xla"))
    assert blocked.dtype == xla.dtype == q.dtype
    bound = 1e-4 if dtype == "float32" else 0.5  # values reach 100, with 8 bits in bfloat16
    np.testing.assert_allclose(
        blocked.astype(jnp.float32), xla.astype(jnp.float32), rtol=0, atol=bound
    )


@pytest.mark.parametrize("length", [6, 7])
@pytest.mark.parametrize("rotates", [False, True])
def test_padding_for_cudnn_changes_nothing(monkeypatch, length, rotates):
    """cuDNN gets an even length and the true one; its place is taken by XLA's attention here."""
    product, lengths = jax.nn.dot_product_attention, []

    def cudnn(q, *rest, query_seq_lengths, key_value_seq_lengths, implementation):
        lengths.append(q.shape[1])
        assert (query_seq_lengths is None) == (key_value_seq_lengths is None) == (length == 6)
        return product(
            q,
            *rest,
            query_seq_lengths=query_seq_lengths,
            key_value_seq_lengths=key_value_seq_lengths,
            implementation="xla",
        )

    x = drawn(2, length, 16)
    angles = drawn(length, 4).repeat(2, axis=1)
    rotation = (np.cos(angles), np.sin(angles)) if rotates else None
    layers = [Attention(2, qkv_bias=True, implementation=name) for name in ("xla", "cudnn")]
    params = jax.tree.map(lambda leaf: drawn(*leaf.shape), layers[0].init(jax.random.key(0), x))
    run = lambda layer, x: layer.apply(params, x, rotation)
    out, vjp = jax.vjp(lambda x: run(layers[0], x), x)
    monkeypatch.setattr(jax.nn, "dot_product_attention", cudnn)
    padded, padded_vjp = jax.vjp(lambda x: run(layers[1], x), x)
    assert lengths == [length + length % 2]
    np.testing.assert_allclose(padded, out, rtol=0, atol=1e-5)
    g = drawn(*x.shape, seed=1)
    np.testing.assert_allclose(padded_vjp(g)[0], vjp(g)[0], rtol=0, atol=2e-4)


def test_quarter_turns_are_exact_in_both_forms():
    x = drawn(2, 3, 5, 8)
    expected = np.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)
    for turn in (_by_product, _by_swap):
        np.testing.assert_array_equal(turn(x), expected)
        np.testing.assert_array_equal(turn(x.astype(jnp.bfloat16)), expected.astype(jnp.bfloat16))


@pytest.mark.parametrize("approximate", [False, True])
def test_gelu_and_its_gradient(approximate):
    """Values against scipy's erf, or the tanh form; gradients against differences in float64."""
    x = np.linspace(-8, 8, 4001, dtype=np.float32)

    def exact(x: np.ndarray) -> np.ndarray:
        if approximate:
            return x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
        return x / 2 * (1 + erf(x / 2**0.5))

    value, vjp = jax.vjp(lambda x: gelu(x, approximate), x)
    np.testing.assert_allclose(value, exact(x.astype(np.float64)), rtol=0, atol=1e-6)
    differences = (exact(x.astype(np.float64) + 1e-5) - exact(x.astype(np.float64) - 1e-5)) / 2e-5
    np.testing.assert_allclose(vjp(np.ones_like(x))[0], differences, rtol=0, atol=5e-6)


def test_gelu_keeps_its_input_alone_for_the_backward_pass():
    _, vjp = jax.vjp(lambda x: gelu(x, True), jnp.asarray(drawn(3, 4)))
    assert [leaf.shape for leaf in jax.tree.leaves(vjp)] == [(3, 4)]


@pytest.mark.parametrize("size, stride, padding", [(4, 4, 0), (3, 1, 1)])
def test_patch_conv_is_that_of_flax(size, stride, padding):
    """Initial parameters are equal, so that a seed still means the same network."""
    x = drawn(2, 8, 12, 3)
    ours = PatchConv(5, size, stride, padding)
    bias_init = conv_bias_init(size**2 * 3)
    theirs = nn.Conv(5, (size, size), stride, padding, kernel_init=CONV_INIT, bias_init=bias_init)
    variables = ours.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, variables, theirs.init(jax.random.key(0), x))

    def loss(module: nn.Module, variables: dict) -> jax.Array:
        return jnp.square(module.apply(variables, x)).mean()

    np.testing.assert_allclose(
        ours.apply(variables, x), theirs.apply(variables, x), rtol=0, atol=1e-6
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6),
        *(jax.grad(loss, 1)(module, variables) for module in (ours, theirs)),
    )


def test_dense_is_that_of_flax():
    x = drawn(2, 3, 4)
    variables = Dense(5).init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, variables, nn.Dense(5).init(jax.random.key(0), x))
    np.testing.assert_allclose(
        Dense(5).apply(variables, x), nn.Dense(5).apply(variables, x), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("use_bias", [False, True])
def test_split_dense_is_the_split_of_flax(use_bias):
    """Parameters are equal bit by bit; outputs and gradients to float32's precision."""
    x = drawn(2, 5, 8)
    init = dict(bias_init=nn.initializers.normal(1.0))
    ours = SplitDense(3, 2, use_bias=use_bias, **init)
    flax = nn.Dense(6, use_bias, kernel_init=ours.kernel_init, **init)
    key = jax.random.key(0)
    params = ours.init(key, x)
    jax.tree.map(np.testing.assert_array_equal, params, flax.init(key, x))

    def values(outs: list) -> tuple:
        return tuple(outs), sum((part * (i + 1)).sum() for i, part in enumerate(outs))

    split = lambda params: values(ours.apply(params, x))
    whole = lambda params: values(jnp.split(flax.apply(params, x), 2, axis=-1))
    for a, b in zip(jax.tree.leaves(split(params)), jax.tree.leaves(whole(params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)
    gradients = (jax.grad(lambda params, f=f: f(params)[1])(params) for f in (split, whole))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *gradients)


def test_split_dense_with_padding_is_the_same_product():
    """Zeros after the features are all that is added, and zeros after the input change nothing."""
    x = drawn(2, 5, 8)
    init = dict(bias_init=nn.initializers.normal(1.0))
    plain = SplitDense(3, 2, **init)
    padded = SplitDense(3, 2, inputs=8, spare=5, **init)
    params = plain.init(jax.random.key(0), x)
    wide = np.pad(x, ((0, 0), (0, 0), (0, 3)))
    jax.tree.map(np.testing.assert_array_equal, params, padded.init(jax.random.key(0), wide))
    for out, expected in zip(padded.apply(params, wide), plain.apply(params, x), strict=True):
        np.testing.assert_allclose(out[..., :3], expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(out[..., 3:], np.zeros((2, 5, 5)))


def test_padded_swiglu_computes_the_same():
    """The hidden channels are padded to a multiple of 8; parameters and numbers stay the same."""
    x = drawn(2, 3, 8)
    plain, padded = SwiGLU(hidden=10), SwiGLU(hidden=10, multiple=8)
    params = plain.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, params, padded.init(jax.random.key(0), x))
    params = jax.tree.map(lambda leaf: drawn(*leaf.shape), params)
    out, vjp = jax.vjp(plain.apply, params, x)
    padded_out, padded_vjp = jax.vjp(padded.apply, params, x)
    np.testing.assert_allclose(padded_out, out, rtol=1e-5, atol=1e-5)
    for actual, expected in zip(
        jax.tree.leaves(padded_vjp(out)), jax.tree.leaves(vjp(out)), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-3)
    products = [
        equation.outvars[0].aval.shape[-1]
        for equation in jax.make_jaxpr(padded.apply)(params, x).jaxpr.eqns
        if equation.primitive.name == "cond"
    ]
    assert products == [16, 16, 8]
