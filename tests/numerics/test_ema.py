"""Power-function averages: widths, exponents, weights of updates, and averages from snapshots."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from ddaepp_jax.training import ema, graft, posthoc
from ddaepp_jax.training.step import TrainState

PAIR = (0.05, 0.1)


def profile(gamma, t):
    return lambda tau: (gamma + 1) * tau**gamma / t ** (gamma + 1)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 6.94, 16.97, 200.0])
def test_width_is_the_profiles_standard_deviation(gamma):
    moments = [
        integrate.quad(lambda tau, k=k: tau**k * profile(gamma, 1.0)(tau), 0, 1)[0]
        for k in range(3)
    ]
    assert moments[0] == pytest.approx(1)
    assert ema.width(gamma) == pytest.approx(np.sqrt(moments[2] - moments[1] ** 2), rel=1e-6)


@given(st.floats(ema.WIDTHS[0], ema.WIDTHS[1] - 1e-6))
def test_exponent_is_the_inverse_of_width(sigma_rel):
    gamma = ema.exponent(sigma_rel)
    assert gamma >= 0 and ema.width(gamma) == pytest.approx(sigma_rel, rel=1e-12)


def test_exponents_of_the_usual_widths():
    """The paper has 6.94 and 16.97 for 0.10 and 0.05."""
    np.testing.assert_allclose(ema.exponent(np.array([0.1, 0.05])), [6.94, 16.97], atol=5e-3)
    assert ema.exponent(ema.WIDTHS[1]) == pytest.approx(0, abs=1e-6)


def track(values, sigma_rels, start=1e3):
    """Returns the averages of ``values`` (T, D) after every update, by width: (T, D) float32."""
    averages = ema.init({"w": jnp.full(values.shape[1], start, jnp.float32)}, (), sigma_rels)

    def move(averages, update):
        step, value = update
        averages = ema.update(averages, {"w": value}, step, ramp=True)
        return averages, averages

    steps = jnp.arange(len(values), dtype=jnp.int32)
    scan = jax.jit(lambda values: jax.lax.scan(move, averages, (steps, values))[1])
    history = scan(jnp.asarray(values, jnp.float32))
    return {width: np.asarray(history[ema.power_name(width)]["w"]) for width in sigma_rels}


@pytest.mark.parametrize("sigma_rel", [0.02, 0.05, 0.25])
def test_updates_have_the_weights_of_the_profile(sigma_rel):
    """The averages are explicit weighted sums in float64.

    The weight of an update is the profile's integral over its step; the start has no weight.
    """
    values = np.random.default_rng(0).standard_normal((60, 4))
    averages = track(values, (sigma_rel,))[sigma_rel]
    gamma = ema.exponent(sigma_rel)
    for t in (1, 2, 17, 60):
        beta = [(1 - 1 / n) ** (gamma + 1) for n in range(1, t + 1)]
        weights = np.array([(1 - beta[n]) * np.prod(beta[n + 1 :]) for n in range(t)])
        bins = [integrate.quad(profile(gamma, t), n, n + 1)[0] for n in range(t)]
        np.testing.assert_allclose(weights, bins, atol=1e-9)
        atol = 2e-4 if t == 1 else 5e-5
        np.testing.assert_allclose(averages[t - 1], weights @ values[:t], atol=atol)


def test_the_rate_is_accurate_late_in_a_run():
    """Beta itself would round to within a few units of 1 in float32's last place."""
    for sigma_rel in (0.05, 0.28):
        for t in (2, 1000, 10**6, 16 * 10**6):
            exact = -np.expm1((ema.exponent(sigma_rel) + 1) * np.log1p(-1 / t))
            rate = float(ema.power_rate(sigma_rel, jnp.int32(t - 1)))
            assert rate == pytest.approx(exact, rel=1e-6)
    assert float(ema.power_rate(0.05, jnp.int32(0))) == 1


def test_power_functions_do_not_change_exponential_averages():
    params = {"w": jnp.arange(5.0) / 7}
    alone, beside = ema.init(params, (0.9,)), ema.init(params, (0.9,), PAIR)
    assert list(beside) == ["0.9", "sigma_rel0.05", "sigma_rel0.1"]
    for n in range(5):
        moved = {"w": params["w"] * n}
        alone = ema.update(alone, moved, jnp.int32(n), ramp=True)
        beside = ema.update(beside, moved, jnp.int32(n), ramp=True)
    np.testing.assert_array_equal(alone["0.9"]["w"], beside["0.9"]["w"])


def test_every_average_starts_from_the_weights_of_another_run():
    params = {"network": {"w": jnp.zeros(3), "own": jnp.ones(2)}, "objectives": {"h": jnp.ones(1)}}
    state = TrainState(jnp.int32(0), params, ema.init(params, (0.9,), PAIR), {}, jnp.int32(0))
    state, _ = graft.graft(state, {"w": np.arange(3, dtype=np.float32)})
    assert list(state.ema) == ["0.9", "sigma_rel0.05", "sigma_rel0.1"]
    for average in state.ema.values():
        jax.tree.map(np.testing.assert_array_equal, average, state.params)
        np.testing.assert_array_equal(average["network"]["w"], [0, 1, 2])


@pytest.mark.parametrize(
    ("first", "second"),
    [((7.0, 0.05), (20.0, 0.1)), ((20.0, 0.05), (7.0, 0.1)), ((9.0, 0.02), (9.0, 0.28))],
)
def test_inner_products(first, second):
    profiles = [profile(ema.exponent(sigma_rel), t) for t, sigma_rel in (first, second)]
    product = lambda tau: profiles[0](tau) * profiles[1](tau)
    expected = integrate.quad(product, 0, min(first[0], second[0]))[0]
    assert posthoc.inner_product(*first, *second) == pytest.approx(expected, rel=1e-8)
    assert posthoc.inner_product(*second, *first) == pytest.approx(expected, rel=1e-8)


def snapshots(count, total, sigma_rels=PAIR):
    """Returns the steps and the widths of ``count`` snapshots at even distances."""
    pairs = [(total * i // count, width) for i in range(1, count + 1) for width in sigma_rels]
    return tuple(map(np.array, zip(*pairs, strict=True)))


def test_a_tracked_profile_is_made_of_itself():
    steps, widths = snapshots(10, 1000)
    weights, error = posthoc.fit(steps, widths, 1000, 0.05)
    np.testing.assert_allclose(weights, (steps == 1000) & (widths == 0.05), atol=1e-7)
    assert error < 1e-6


@pytest.mark.parametrize("sigma_rel", [0.03, 0.07, 0.15, 0.2])
def test_profile_error_is_the_remaining_distance_and_falls_with_more_snapshots(sigma_rel):
    errors = []
    for count in (5, 10, 20, 50):
        steps, widths = snapshots(count, 1000)
        weights, error = posthoc.fit(steps, widths, 1000, sigma_rel)
        assert weights.sum() == pytest.approx(1)
        errors.append(error)
        tau = np.linspace(0, 1000, 400_001)
        target = profile(ema.exponent(sigma_rel), 1000)(tau)
        combined = sum(
            np.where(tau <= t, w * profile(ema.exponent(s), t)(tau), 0)
            for w, t, s in zip(weights, steps, widths, strict=True)
        )
        measured = np.sqrt(np.square(combined - target).sum() / np.square(target).sum())
        assert error == pytest.approx(measured, rel=0.05)
    assert all(later < 0.6 * earlier for earlier, later in itertools.pairwise(errors)), errors


def test_the_fit_is_the_best():
    """Other weights that sum to 1 give a larger error."""
    steps, widths = snapshots(6, 600)
    weights, best = posthoc.fit(steps, widths, 600, 0.07)
    t = steps / 600
    gram = posthoc.inner_product(t[:, None], widths[:, None], t, widths)
    to_target = posthoc.inner_product(t, widths, 1.0, 0.07)
    target_square = posthoc.inner_product(1.0, 0.07, 1.0, 0.07)
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1e-1):
        moved = rng.standard_normal(len(weights)) * scale
        other = weights + moved - moved.mean()
        square = target_square - 2 * other @ to_target + other @ gram @ other
        assert np.sqrt(square / target_square) > best


@pytest.fixture(scope="module")
def walk():
    """Returns a random walk of 4,000 steps with 64 dimensions, and its tracked averages."""
    values = np.cumsum(np.random.default_rng(1).standard_normal((4000, 64)), axis=0)
    return values, track(values, (*PAIR, 0.03, 0.07, 0.15, 0.2))


@pytest.mark.parametrize("sigma_rel", [0.03, 0.07, 0.15, 0.2])
def test_averages_of_a_random_walk(walk, sigma_rel):
    """The error falls with more snapshots, to below 1 % with 40 of the pair.

    It is relative to the distance of the average from the walk's end.
    """
    values, tracked = walk
    exact = tracked[sigma_rel][-1]
    errors = []
    for count in (10, 20, 40):
        steps, widths = snapshots(count, 4000)
        weights, _ = posthoc.fit(steps, widths, 4000, sigma_rel)
        average = sum(w * tracked[s][t - 1] for w, t, s in zip(weights, steps, widths, strict=True))
        errors.append(np.linalg.norm(average - exact) / np.linalg.norm(exact - values[-1]))
    assert errors[-1] < 0.01 and all(a > b for a, b in itertools.pairwise(errors)), errors
