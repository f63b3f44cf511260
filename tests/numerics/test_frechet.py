"""The Frechet distance against pytorch-fid, 50-digit numbers, closed forms and its laws."""

import time

import numpy as np
import pytest
from helpers.feature_sets import SCORES, feature_set, real_and_fake
from hypothesis import given, settings
from hypothesis import strategies as st

from ddaepp_jax.scoring import frechet
from ddaepp_jax.scoring.frechet import Gaussian, distance, from_moments, gaussian


def of_features(a, b):
    return distance(gaussian(a), gaussian(b))


def orthogonal(rng, rows, columns):
    return np.linalg.qr(rng.normal(size=(rows, columns)))[0]


@pytest.mark.parametrize("case", ["small", "medium", pytest.param("large", marks=pytest.mark.slow)])
def test_equals_pytorch_fid(case):
    assert of_features(*real_and_fake(case)) == pytest.approx(SCORES["frechet"][case], rel=1e-9)


def test_fewer_images_than_dimensions_equals_fifty_digits():
    """pytorch-fid takes complex roots of rounding errors here; moments contain such errors."""
    real, fake = real_and_fake("few")
    assert of_features(real, fake) == pytest.approx(SCORES["frechet"]["few"], rel=1e-12)
    moments = [from_moments(x.mean(axis=0), np.cov(x, rowvar=False)) for x in (real, fake)]
    assert distance(*moments) == pytest.approx(SCORES["frechet"]["few"], rel=1e-6)


@pytest.mark.parametrize(("n", "dims"), [(60, 5), (5, 5), (6, 5), (5, 60)])
def test_moments_are_those_of_numpy(n, dims, monkeypatch):
    monkeypatch.setattr(frechet, "ROWS", 7)  # Several pieces, the last one short.
    features = feature_set(f"moments.{n}", n, dims).astype(np.float32) + np.float32(100)
    fitted = gaussian(features)
    assert fitted.mean.dtype == fitted.factor.dtype == np.float64
    assert len(fitted.factor) <= min(n, dims)
    np.testing.assert_allclose(fitted.mean, np.float64(features).mean(axis=0), rtol=1e-14)
    covariance = np.cov(np.float64(features), rowvar=False)
    np.testing.assert_allclose(fitted.covariance, covariance, rtol=0, atol=1e-13)


def test_a_memory_map_is_read_as_it_is(tmp_path):
    features = feature_set("map", 50, 6).astype(np.float32)
    np.save(tmp_path / "features.npy", features)
    mapped = gaussian(np.load(tmp_path / "features.npy", mmap_mode="r"))
    held = gaussian(features)
    assert (mapped.mean == held.mean).all() and (mapped.factor == held.factor).all()


def with_dead_columns(features):
    return features * (np.arange(features.shape[1]) % 3 > 0) + 0.1


def with_twin_columns(features):
    sums = features @ np.ones((features.shape[1], 4))
    return np.concatenate([features, features[:, ::-1], sums], axis=1)


@pytest.mark.parametrize("change", [lambda f: f, with_dead_columns, with_twin_columns])
@pytest.mark.parametrize("case", ["medium", "few"])
def test_a_set_has_no_distance_to_itself(case, change):
    real = change(real_and_fake(case)[0])
    assert 0 <= of_features(real, real[::-1]) < 1e-6
    moments = from_moments(real.mean(axis=0), np.cov(real, rowvar=False))
    assert 0 <= distance(gaussian(real), moments) < 1e-6


@pytest.mark.parametrize("dims", [8, 64, 300])
def test_low_rank_is_that_of_the_space_it_lies_in(dims):
    """An isometric map into more dimensions doesn't change the distance."""
    real, fake = real_and_fake("small")
    into = orthogonal(np.random.default_rng(0), dims, 8).T
    expected = pytest.approx(SCORES["frechet"]["small"], rel=1e-7)
    assert of_features(real @ into, fake @ into) == expected


def test_closed_forms():
    rng = np.random.default_rng(1)
    # Covariances that commute: |mean1 - mean2|^2 + sum (s1 - s2)^2 over common axes, some without
    # variance.
    axes = orthogonal(rng, 20, 20)
    mean = rng.normal(size=20)
    s1 = np.append(rng.uniform(0, 3, 15), np.zeros(5))
    s2 = np.append(np.zeros(5), rng.uniform(0, 3, 15))
    a, b = (from_moments(m, (axes * s**2) @ axes.T) for m, s in ((mean, s1), (0 * mean, s2)))
    assert distance(a, b) == pytest.approx(mean @ mean + np.square(s1 - s2).sum(), rel=1e-6)
    # 2 x 2: the root of a product P has the trace sqrt(tr P + 2 sqrt(det P)).
    p, q = (x @ x.T for x in rng.normal(size=(2, 2, 2)))
    root = np.sqrt(np.trace(p @ q) + 2 * np.sqrt(np.linalg.det(p) * np.linalg.det(q)))
    a, b = from_moments(np.zeros(2), p), from_moments(np.ones(2), q)
    assert distance(a, b) == pytest.approx(2 + np.trace(p) + np.trace(q) - 2 * root, rel=1e-12)
    # A point, and a factor with more rows than columns.
    point = from_moments(np.zeros(2), np.zeros((2, 2)))
    tall = Gaussian(np.ones(2), rng.normal(size=(9, 2)))
    assert distance(point, tall) == pytest.approx(2 + np.trace(tall.covariance), rel=1e-12)
    assert distance(tall, from_moments(tall.mean, tall.covariance)) == pytest.approx(0, abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(2, 30), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_laws(seed, n, m, dims):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, dims))
    b = rng.normal(size=(m, dims)) * rng.uniform(0, 2, dims) + 1
    squared = of_features(a, b)
    close = lambda value: pytest.approx(value, rel=1e-8, abs=1e-8)
    assert squared >= np.square(a.mean(axis=0) - b.mean(axis=0)).sum() - 1e-8
    assert of_features(b, a) == close(squared)
    assert of_features(rng.permutation(a), rng.permutation(b)) == close(squared)
    turned = orthogonal(rng, dims, dims)
    assert of_features(a @ turned + 5, b @ turned + 5) == close(squared)
    assert of_features(3 * a, 3 * b) == close(9 * squared)
    shift = rng.normal(size=dims)
    assert of_features(a, a + shift) == close(shift @ shift)


def test_moments_rounded_to_float32_are_accepted():
    """Files of statistics may have eigenvalues slightly below zero."""
    features = with_twin_columns(feature_set("float32", 200, 20))
    covariance = np.cov(features, rowvar=False)
    rounded = covariance.astype(np.float32)
    assert np.linalg.eigvalsh(np.float64(rounded))[0] < -1e-10
    ours = from_moments(features.mean(axis=0), rounded).covariance
    assert np.abs(ours - covariance).max() < 1e-5 * covariance.max()


def test_refusals():
    mean = np.zeros(2)
    nan = np.array([[1.0, np.nan], [np.nan, 1.0]])
    for features in (np.zeros(3), np.zeros((1, 3)), np.zeros((3, 0))):
        with pytest.raises(ValueError, match="shape"):
            gaussian(features)
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="finite"):
            gaussian(np.array([[0.0, 1.0], [np.inf, 1.0], [bad, 2.0]]))
    for matrix, reason in (
        (np.eye(3), "shape"),
        (nan, "finite"),
        ([[1.0, 0.5], [0.4, 1.0]], "symmetric"),
        ([[1.0, 2.0], [2.0, 1.0]], "eigenvalue"),
        ([[0.0, 1.0], [1.0, 0.0]], "eigenvalue"),
        (-np.eye(2), "eigenvalue"),
        (np.diag([1.0, -1e-3]), "eigenvalue"),
    ):
        with pytest.raises(ValueError, match=reason):
            from_moments(mean, matrix)
    with pytest.raises(ValueError, match="2 and 3"):
        distance(from_moments(mean, np.eye(2)), from_moments(np.zeros(3), np.eye(3)))


@pytest.mark.slow
def test_fifty_thousand_images_take_seconds():
    rng = np.random.default_rng(0)
    real, fake = (rng.standard_normal((50_000, 2048), np.float32) for _ in range(2))
    start = time.process_time()  # Other work on the machine doesn't count.
    squared = of_features(real, fake)
    assert time.process_time() - start < 160  # All threads; 40 is 20 seconds on two cores.
    assert 0 < squared < 60
