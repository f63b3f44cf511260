"""Precision and recall against torch-fidelity and, exactly, against the plain definition."""

import time

import numpy as np
import pytest
from helpers.feature_sets import SCORES, real_and_fake
from hypothesis import given, settings
from hypothesis import strategies as st

from ddaepp_jax.scoring import precision_recall as module
from ddaepp_jax.scoring.precision_recall import precision_recall


def plain(real, fake, k):
    """Computes the definition, pair by pair."""
    distance = lambda a, b: np.square(np.float64(a) - np.float64(b)).sum()

    def share(features, others):
        radii = [
            sorted(distance(x, y) for j, y in enumerate(others) if j != i)[k - 1]
            for i, x in enumerate(others)
        ]
        return np.mean(
            [any(distance(f, o) <= r for o, r in zip(others, radii, strict=True)) for f in features]
        )

    return share(fake, real), share(real, fake)


@pytest.mark.parametrize("rows", [2048, 64])  # One piece, and several.
@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("case", ["small", "medium"])
def test_equals_torch_fidelity(case, k, rows, monkeypatch):
    monkeypatch.setattr(module, "ROWS", rows)
    theirs = SCORES["precision_recall"][f"{case}.{k}"]  # float32
    assert precision_recall(*real_and_fake(case), k) == pytest.approx(theirs, abs=1e-6)


@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(*[st.integers(4, 15)] * 2),
    dims=st.integers(1, 5),
    k=st.integers(1, 3),
    kind=st.sampled_from(["spread", "grid", "near", "far", "same"]),
    rows=st.integers(1, 16),
)
@settings(max_examples=150, deadline=None)
def test_equals_the_plain_definition(seed, sizes, dims, k, kind, rows):
    """Also if distances tie (on a grid), vanish beside the norms, or all features are equal."""
    rng = np.random.default_rng(seed)
    real, fake = (rng.normal(size=(n, dims)) for n in sizes)
    if kind == "grid":
        real, fake = np.round(2 * real), np.round(2 * fake)
    elif kind == "near":
        # Clusters 2 apart and 1e-9 wide: a product has no digit left for the distance.
        real, fake = (np.sign(x[:, :1]) + 1e-9 * np.round(x, 1) for x in (real, fake))
    elif kind == "far":
        real, fake = (np.float32(x + 1000) for x in (real, fake))
    elif kind == "same":
        real, fake = 0 * real + 0.1, 0 * fake + 0.1
    fake[: seed % 4] = real[: seed % 4]  # Memorised images.
    before, module.ROWS = module.ROWS, rows
    try:
        assert precision_recall(real, fake, k) == plain(real, fake, k)
    finally:
        module.ROWS = before


def test_the_kth_neighbour_itself_is_inside():
    """What is beyond it is outside; two roundings of one distance must agree to the last bit."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        real = rng.normal(size=(2, 33))  # Each is the other's neighbour, on the ball's boundary.
        beyond = real[1] + 1e-3 * np.arange(1, 4)[:, None] * (real[1] - real[0])
        fake = np.concatenate([real[1:], beyond])
        assert precision_recall(real, fake, 1)[0] == 1  # All are in the second ball.
        mirrored = 2 * real[0] - real[1]  # Also on the boundary, up to rounding.
        fake = np.stack([mirrored, *(mirrored + real[0] - real[1])[None]])
        assert precision_recall(real, fake, 1) == plain(real, fake, 1)


def test_a_set_and_itself_and_a_set_far_away():
    real, fake = real_and_fake("medium")
    assert precision_recall(real, real) == precision_recall(real, real[::-1]) == (1, 1)
    assert precision_recall(real, fake + 100) == (0, 0)
    one = np.repeat(real[:1], 50, axis=0)  # The same real image 50 times.
    assert precision_recall(real, one) == (1, 1 / len(real))


@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_laws(seed, k):
    rng = np.random.default_rng(seed)
    real = rng.normal(size=(20, 4))
    fake = rng.normal(size=(15, 4)) + 0.5
    precision, recall = precision_recall(real, fake, k)
    assert precision_recall(fake, real, k) == (recall, precision)
    assert precision_recall(rng.permutation(real), rng.permutation(fake), k) == (precision, recall)
    turned = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    assert precision_recall(3 * real @ turned + 5, 3 * fake @ turned + 5, k) == (precision, recall)
    more = precision_recall(real, fake, k + 1)
    assert more[0] >= precision and more[1] >= recall


@pytest.mark.parametrize(
    ("real", "fake", "k", "reason"),
    [
        (np.zeros((9, 2)), np.zeros((9, 3)), 3, "shapes"),
        (np.zeros(9), np.zeros((9, 3)), 3, "shapes"),
        (np.zeros((9, 2)), np.zeros((3, 2)), 3, "neighbour 3 .*9 and 3"),
        (np.zeros((9, 2)), np.zeros((9, 2)), 0, "neighbour 0"),
        (np.array([[np.inf], [-np.inf], [1.0]]), np.zeros((3, 1)), 1, "finite"),
        (np.zeros((3, 1)), np.array([[np.inf], [np.nan], [1.0]]), 1, "finite"),
    ],
)
def test_refusals(real, fake, k, reason):
    with pytest.raises(ValueError, match=reason):
        precision_recall(real, fake, k)


@pytest.mark.slow
def test_ten_thousand_images_take_a_minute():
    rng = np.random.default_rng(0)
    real, fake = (rng.standard_normal((10_000, 2048), np.float32) for _ in range(2))
    start = time.process_time()  # Other work on the machine doesn't count.
    shares = precision_recall(real, fake)
    assert time.process_time() - start < 240  # All threads; 30 were measured.
    assert all(0 < share < 1 for share in shares)
