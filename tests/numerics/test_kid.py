"""KID against torch-fidelity, plain loops and the laws of an unbiased estimate."""

import numpy as np
import pytest
from helpers.feature_sets import SCORES, feature_set, real_and_fake
from hypothesis import given, settings
from hypothesis import strategies as st

from ddaepp_jax.scoring.kid import kid


@pytest.mark.parametrize("case", ["small", "medium"])
def test_equals_torch_fidelity(case):
    real, fake = real_and_fake(case)
    for subsets, size in ((3, 40), (5, 20)):
        theirs = pytest.approx(SCORES["kid"][f"{case}.{subsets}x{size}"], rel=1e-9)
        # 2020 is torch-fidelity's default seed, and draws the same subsets.
        assert kid(real, fake, subsets=subsets, subset_size=size, seed=2020) == theirs
    n = min(len(real), len(fake))
    mean, std = kid(real[:n], fake[:n], subsets=1, seed=5)
    assert mean == pytest.approx(SCORES["kid"][f"{case}.whole"][0], rel=1e-9) and std == 0


def test_equals_plain_loops():
    real, fake = real_and_fake("small")
    x, y = real[:30], fake[:30]
    k = lambda a, b: (sum(p * q for p, q in zip(a, b, strict=True)) / 8 + 1) ** 3
    own = [
        sum(k(s[i], s[j]) for i in range(30) for j in range(30) if i != j) / (30 * 29)
        for s in (x, y)
    ]
    across = sum(k(a, b) for a in x for b in y) / 900
    assert kid(x, y, subsets=1) == pytest.approx((sum(own) - 2 * across, 0))


@given(st.integers(0, 2**32 - 1), st.integers(2, 20), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_laws(seed, n, dims):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, dims))
    b = rng.normal(size=(n, dims)) + 1
    same = pytest.approx(kid(a, b, subsets=1)[0], rel=1e-9, abs=1e-9)
    assert kid(b, a, subsets=1)[0] == same
    assert kid(rng.permutation(a), b, subsets=1)[0] == same
    turned = np.linalg.qr(rng.normal(size=(dims, dims)))[0]
    assert kid(a @ turned, b @ turned, subsets=1)[0] == same


def test_is_unbiased():
    """Between halves of one distribution the mean is zero; a biased estimate is always above."""
    features = feature_set("unbiased", 4000, 8)
    values = np.array([kid(*np.split(part, 2), subsets=1)[0] for part in np.split(features, 100)])
    assert abs(values.mean()) < 3 * values.std() / 10 and values.min() < 0 < values.max()


def test_the_seed_draws_subsets_no_larger_than_a_set():
    real, fake = real_and_fake("medium")
    score = lambda **options: kid(real, fake, **options)
    assert score(subsets=4, subset_size=50) == score(subsets=4, subset_size=50, seed=0)
    assert score(subsets=4, subset_size=50) != score(subsets=4, subset_size=50, seed=1)
    assert score(subsets=2, subset_size=1000) == score(subsets=2, subset_size=400)


def test_computes_in_float64():
    real, fake = real_and_fake("medium")
    real = real.astype(np.float32)
    assert kid(real, fake, subsets=2) == kid(np.float64(real), fake, subsets=2)


@pytest.mark.parametrize(
    ("a", "b", "changed", "reason"),
    [
        ((9, 2), (9, 3), {}, "shapes"),
        ((9,), (9, 3), {}, "shapes"),
        ((1, 3), (9, 3), {}, " 1 images"),
        ((9, 3), (9, 3), {"subset_size": 1}, " 1 images"),
        ((9, 3), (9, 3), {"subsets": 0}, "0 subsets"),
    ],
)
def test_refusals(a, b, changed, reason):
    with pytest.raises(ValueError, match=reason):
        kid(np.zeros(a), np.zeros(b), **changed)
