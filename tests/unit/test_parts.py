"""Averages, optimizer and clock against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddaepp_jax.base import parallel
from ddaepp_jax.training import clock, ema, optimizer


def test_ema_against_float64():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((50, 3))
    averages = ema.init({"w": jnp.asarray(values[0], jnp.float32)}, (0.9, 0.99))
    expected = {"0.9": values[0], "0.99": values[0]}
    for n, value in enumerate(values[1:]):
        averages = ema.update(
            averages, {"w": jnp.asarray(value, jnp.float32)}, jnp.int32(n), ramp=True
        )
        for name in expected:
            decay = min(float(name), 1 - (1 + n) ** (-2 / 3))
            expected[name] = decay * expected[name] + (1 - decay) * value
    for name in expected:
        np.testing.assert_allclose(averages[name]["w"], expected[name], atol=1e-6)


def test_ema_without_ramp_is_constant_and_the_ramp_forgets_the_start():
    assert float(ema.decay_at(0.99, jnp.int32(0), ramp=False)) == pytest.approx(0.99)
    assert float(ema.decay_at(0.99, jnp.int32(0), ramp=True)) == 0
    assert float(ema.decay_at(0.99, jnp.int32(10**6), ramp=True)) == pytest.approx(0.99)


def test_learning_rate():
    constant = optimizer.learning_rate(2.0, "constant", 10, 100)
    cosine = optimizer.learning_rate(2.0, "cosine", 10, 110)
    np.testing.assert_allclose(
        [constant(0), constant(5), constant(10), constant(99)], [0, 1, 2, 2], atol=1e-6
    )
    np.testing.assert_allclose(
        [cosine(5), cosine(10), cosine(60), cosine(110)], [1, 2, 1, 0], atol=1e-6
    )
    assert optimizer.learning_rate(2.0, "constant", 0, 100)(0) == 2


PARAMS = {
    "dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones((2,))},
    "norm": {"scale": jnp.ones((2,))},
    "pos": jnp.ones((1, 2)),
}


def updates(grads=None, **fields):
    defaults = dict(
        name="adamw",
        learning_rate=optax.constant_schedule(0.1),
        b1=0.9,
        b2=0.99,
        weight_decay=0.5,
        decay_mask="all",
        clip_norm=0.0,
    )
    rule = optimizer.make_optimizer(**defaults | fields)
    grads = jax.tree.map(jnp.zeros_like, PARAMS) if grads is None else grads
    return rule.update(grads, rule.init(PARAMS), PARAMS)[0]


def test_decay_masks():
    decayed = updates()
    jax.tree.map(lambda u: np.testing.assert_allclose(u, -0.05, rtol=1e-6), decayed)
    decayed = updates(decay_mask="matrices")
    np.testing.assert_allclose(decayed["dense"]["kernel"], -0.05, rtol=1e-6)
    for exempt in (decayed["dense"]["bias"], decayed["norm"]["scale"], decayed["pos"]):
        assert not jnp.any(exempt)


def test_clipping_and_rules():
    grads = jax.tree.map(lambda p: 3 * jnp.ones_like(p), PARAMS)  # 10 values: norm 3 sqrt(10)
    clipped = updates(grads, name="sgd", clip_norm=1.0)
    np.testing.assert_allclose(optax.tree.norm(clipped), 0.1, rtol=1e-5)
    np.testing.assert_allclose(updates(grads, name="sgd")["pos"], -0.3, rtol=1e-6)
    np.testing.assert_allclose(updates(grads, name="adam")["pos"], -0.1, rtol=1e-4)


@given(
    st.integers(0, 10**6),
    st.integers(1, 10**6),
    st.integers(1, 100),
    st.lists(st.integers(0, 5000), max_size=4),
)
def test_dispatches_end_on_every_multiple(step, more, dispatch, periods):
    total = step + more
    stop = clock.next_stop(step, total, dispatch, tuple(periods))
    assert step < stop <= min(total, step + dispatch)
    for period in filter(None, periods):
        assert step // period == (stop - 1) // period  # No multiple of the period is passed over.


def test_durations():
    sizes = dict(batch_size=64, num_examples=1000)
    assert clock.total_steps(steps=7, epochs=None, images=None, **sizes) == 7
    # 2 epochs are 31.25 steps, rounded up.
    assert clock.total_steps(steps=None, epochs=2.0, images=None, **sizes) == 32
    assert clock.total_steps(steps=None, epochs=None, images=65, **sizes) == 2


def test_rates_do_not_count_pauses(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    timer = clock.Clock()
    assert timer.rate(100) == 0
    now[0] = 2.0
    with timer.pause():
        now[0] = 50.0
    now[0] = 52.0
    assert timer.rate(120) == 5


def test_peak_flops_by_device_kind():
    assert clock.peak_flops("NVIDIA H100 80GB HBM3") == clock.peak_flops("NVIDIA H200") == 989e12
    assert clock.peak_flops("TPU v5 lite") == 197e12 and clock.peak_flops("TPU v4") == 275e12
    assert clock.peak_flops("cpu") is None


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [
        (2, 256, [2]),
        (6, 64, [6]),
        (9, 64, [10]),
        (64, 64, [64]),
        (48, 50, [48]),
        (65, 64, [40, 40]),
        (70, 64, [40, 40]),
        (130, 64, [48] * 3),
        (1, 1, [1]),
    ],
)
def test_batches_are_not_larger_than_needed(n, batch_size, sizes):
    parts = list(parallel.batches(n, batch_size, parallel.make_mesh((1, 1, 1))))
    assert [len(rows) for rows, _ in parts] == sizes
    assert sum(count for _, count in parts) == n
    np.testing.assert_array_equal(
        np.concatenate([rows[:count] for rows, count in parts]), np.arange(n)
    )


def test_no_examples_make_no_batches():
    assert not list(parallel.batches(0, 64, parallel.make_mesh((1, 1, 1))))


@given(n=st.integers(1, 10_000), batch_size=st.integers(1, 300))
def test_padding_is_small_and_sizes_are_few(n, batch_size):
    """As few batches as possible, and less than a quarter more rows than they need."""
    parts = list(parallel.batches(n, batch_size, parallel.make_mesh((1, 1, 1))))
    (size,) = {len(rows) for rows, _ in parts}
    assert len(parts) == -(-n // batch_size) and size <= batch_size
    assert size < 1.25 * -(-n // len(parts)) or size == 1
    few = {unit << zeros for unit in (*range(1, 8),) for zeros in range(9)}
    assert size in few | {batch_size}
    assert sum(count for _, count in parts) == n
