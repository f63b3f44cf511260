"""The order of examples: epochs are random permutations, equal on host and device."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddaepp_jax.data.order import _mix, batch_indices, max_steps

pytestmark = pytest.mark.smoke


def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """Returns the permutation of one epoch: with a batch of n, a step is an epoch."""
    order = batch_indices(seed, epoch, n, n)
    assert isinstance(order, np.ndarray)
    return order


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 1000), st.integers(1, 3000))
def test_every_epoch_is_a_permutation(seed: int, epoch: int, n: int) -> None:
    order = epoch_order(seed, epoch, n)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


@settings(deadline=None, max_examples=25)
@given(
    st.integers(-5, 2**40),
    st.integers(0, 2**24 - 1),
    st.integers(1, 256),
    st.sampled_from([1, 2, 3, 1797, 50000]),
)
def test_numpy_and_jax_give_the_same_indices(seed: int, step: int, batch_size: int, n: int) -> None:
    device = jax.jit(batch_indices, static_argnums=(0, 2, 3))(seed, jnp.int32(step), batch_size, n)
    assert isinstance(device, jax.Array) and device.dtype == jnp.int32
    np.testing.assert_array_equal(device, batch_indices(seed, step, batch_size, n))


def test_the_seed_may_be_traced_and_steps_scanned() -> None:
    steps = jnp.arange(20)
    scanned = jax.jit(
        lambda seed: jax.lax.scan(lambda c, s: (c, batch_indices(seed, s, 7, 50)), 0, steps)[1]
    )(3)
    np.testing.assert_array_equal(
        scanned, np.stack([batch_indices(3, int(s), 7, 50) for s in steps])
    )


def test_the_last_indices_of_the_largest_set_and_the_last_step() -> None:
    n = 2**31 - 1
    step = max_steps(1000) - 1
    host = batch_indices(2**32 - 1, step, 1000, n)
    assert len(set(host.tolist())) == 1000 and host.min() >= 0
    np.testing.assert_array_equal(
        jax.jit(batch_indices, static_argnums=(0, 2, 3))(-1, jnp.int32(step), 1000, n), host
    )
    assert (max_steps(1000) - 1) * 1000 + 999 < 2**32 < (max_steps(1000) + 1) * 1000


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 40), st.integers(0, 99))
def test_batches_are_the_stream_of_epochs_cut_up(n: int, batch_size: int, seed: int) -> None:
    stream = np.concatenate([batch_indices(seed, step, batch_size, n) for step in range(8)])
    epochs = np.concatenate([epoch_order(seed, e, n) for e in range(len(stream) // n + 1)])
    np.testing.assert_array_equal(stream, epochs[: len(stream)])


@pytest.mark.parametrize("n", [2, 3, 5, 10, 33, 97])
def test_an_index_takes_every_place_equally_often(n: int) -> None:
    epochs = 4000
    orders = np.stack([epoch_order(1, e, n) for e in range(epochs)])  # (epochs, n)
    for place in (0, n // 2, n - 1):
        counts = np.bincount(orders[:, place], minlength=n)
        chi2 = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
        assert abs(chi2 - (n - 1)) < 5 * np.sqrt(2 * (n - 1)) + 5  # mean n - 1, variance 2 (n - 1)


def test_all_pairs_of_neighbours_are_equally_frequent() -> None:
    n, epochs = 12, 8000
    orders = np.stack([epoch_order(5, e, n) for e in range(epochs)])
    counts = np.zeros((n, n))
    np.add.at(counts, (orders[:, 3], orders[:, 4]), 1)
    expected = epochs / (n * (n - 1))
    off_diagonal = counts[~np.eye(n, dtype=bool)]
    chi2 = ((off_diagonal - expected) ** 2 / expected).sum()
    freedom = n * (n - 1) - 1
    assert abs(chi2 - freedom) < 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("n", [1797, 50000, 65536])
def test_large_shuffles_look_random(n: int) -> None:
    orders = np.stack(
        [epoch_order(seed, epoch, n) for seed in (0, 1) for epoch in range(8)]
    ).astype(np.float64)
    fixed = (orders == np.arange(n)).sum(1)
    assert fixed.max() <= 8 and 0.2 < fixed.mean() < 2.5  # Poisson with mean 1
    bound = 5 / np.sqrt(n)
    for order in orders:
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < bound
        assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < bound
    across = np.corrcoef(orders) - np.eye(len(orders))  # other epochs, other seeds
    assert np.abs(across).max() < bound


@pytest.mark.parametrize("batch_size, n", [(0, 5), (5, 0), (5, 2**31)])
def test_impossible_sizes_are_refused(batch_size: int, n: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        batch_indices(0, 0, batch_size, n)


def test_importing_the_package_starts_no_backend_and_loads_nothing_heavy() -> None:
    code = """
import sys
from jax._src import xla_bridge
from ddaepp_jax.data import augment, datasets, images, order, prepare, stream
assert not xla_bridge._backends
assert not {"sklearn", "tensorflow_datasets", "grain", "tensorflow"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_words_are_mixed_one_to_one() -> None:
    """A million different words stay different; a random function would unite a hundred pairs."""
    words = np.unique(np.random.default_rng(0).integers(0, 2**32, 2**20, np.uint32))
    assert len(np.unique(_mix(words))) == len(words)


def test_the_order_is_the_same_in_all_versions() -> None:
    """A run that another version resumes goes on in the order in which it began."""
    assert batch_indices(0, 0, 8, 1797).tolist() == [1788, 996, 1235, 787, 738, 1181, 1026, 1320]
    assert batch_indices(7, 1000, 8, 50_000).tolist() == [
        1778,
        25397,
        5577,
        74,
        23980,
        29926,
        8185,
        19856,
    ]
