"""Every sampler on a Gaussian mixture with the exact denoiser, without clipping."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import mixture

from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.diffusion.edm import EDM
from ddaepp_jax.diffusion.flow import Flow
from ddaepp_jax.diffusion.noise import image_keys, image_noise, step_noise
from ddaepp_jax.diffusion.samplers import edm as edm_samplers
from ddaepp_jax.diffusion.samplers import flow as flow_samplers
from ddaepp_jax.diffusion.samplers import variance_preserving as samplers
from ddaepp_jax.diffusion.vp import VP

N = 10_000
CHURN = dict(s_churn=40.0, s_min=0.05, s_max=50.0, s_noise=1.0)
DETERMINISTIC = {
    "ddim": (DDPM(), samplers.ddim, {}, 250),
    "ddim, continuous": (VP(), samplers.ddim, {}, 250),
    "dpmpp_2m": (DDPM(), samplers.dpmpp_2m, {}, 100),
    "dpmpp_2m, continuous": (VP(), samplers.dpmpp_2m, {}, 100),
    "heun": (EDM(), edm_samplers.heun, {}, 40),
    "euler": (Flow(), flow_samplers.euler, {}, 400),
    "heun_flow": (Flow(), flow_samplers.heun_flow, {}, 40),
}
STOCHASTIC = {
    "ddpm": (DDPM(), samplers.ddpm, {}, 1000),
    "ddpm, continuous": (VP(), samplers.ddpm, {}, 1000),
    "heun with churn": (EDM(), edm_samplers.heun, CHURN, 100),
    "euler_maruyama": (Flow(), flow_samplers.euler_maruyama, {}, 1000),
}
ALL = DETERMINISTIC | STOCHASTIC


def sampled(process, sampler, options, steps, n=N, seed=0):
    """(n, 2) samples, the same start noise for the same seed."""
    levels = {EDM: lambda sigma: (jnp.ones_like(sigma), sigma), Flow: lambda t: (t, 1 - t)}
    exact = mixture.denoiser(levels.get(type(process)) or process.coefficients)

    @functools.partial(jax.jit, static_argnums=1)
    def run(seed, n):
        keys = image_keys(seed, "sample", jnp.arange(n))
        return sampler(
            process, exact, image_noise(keys, (1, 1, 2)), keys, steps, clip=False, **options
        )

    return np.asarray(run(seed, n), np.float64)[:, 0, 0]


def assert_is_the_mixture(samples, error):
    """Mean, covariance and mode weights within 4 standard errors, and what the steps' length
    adds.
    """
    n = len(samples)
    np.testing.assert_array_less(
        np.abs(samples.mean(0) - mixture.MEAN), 4 * np.sqrt(np.diag(mixture.COVARIANCE) / n) + error
    )
    true = mixture.drawn(200_000) - mixture.MEAN
    spread = np.std(
        true[:, :, None] * true[:, None, :], axis=0
    )  # of the products whose mean is the covariance
    np.testing.assert_array_less(
        np.abs(np.cov(samples.T) - mixture.COVARIANCE), 4 * spread / np.sqrt(n) + error
    )
    expected = np.bincount(mixture.modes(mixture.drawn(200_000))) / 200_000
    counted = np.bincount(mixture.modes(samples), minlength=3) / n
    np.testing.assert_array_less(
        np.abs(counted - expected), 4.5 * np.sqrt(expected * (1 - expected) / n) + error
    )


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_have_the_mixtures_law(name):
    assert_is_the_mixture(sampled(*DETERMINISTIC[name]), error=0.004)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_have_the_mixtures_moments(name):
    assert_is_the_mixture(sampled(*STOCHASTIC[name]), error=0.004)


ORDERS = [
    ("ddim", DDPM(), 1, 1000),
    ("ddim, continuous", VP(), 1, 4000),
    ("dpmpp_2m, continuous", VP(), 2, 1024),
    ("heun", EDM(), 2, 512),
    ("euler", Flow(), 1, 4000),
    ("heun_flow", Flow(), 2, 1024),
]


@pytest.mark.parametrize(
    ("name", "process", "order", "fine"), ORDERS, ids=[name for name, *_ in ORDERS]
)
def test_error_falls_with_the_samplers_order(name, process, order, fine):
    """From the same start, the distance to a fine solution falls as 2**-order while steps
    double.
    """
    _, sampler, options, _ = DETERMINISTIC[name]
    counts = (50, 100, 200) if order == 1 else (24, 48, 96)
    exact, *coarse = (sampled(process, sampler, options, steps, n=400) for steps in (fine, *counts))
    # The middle one of the distances: a few of the starts lie where two components part.
    errors = [np.median(np.linalg.norm(samples - exact, axis=1)) for samples in coarse]
    assert errors[-1] < 0.02
    for before, after in itertools.pairwise(errors):
        assert 0.8 * 2**order < before / after < 1.6 * 2**order, errors


def test_heun_takes_one_euler_step_at_the_end():
    """2 * steps - 1 evaluations: the denoiser is never asked at sigma 0, and a step alone is
    Euler's.
    """
    process, x = EDM(), jnp.full((1, 1, 1, 1), 0.3)
    seen = []

    def denoiser(x, sigma):
        jax.debug.callback(lambda s: seen.append(float(s[0])), sigma)
        return x / 2

    out = edm_samplers.heun(
        process, denoiser, x, image_keys(0, "sample", jnp.arange(1)), 5, clip=False
    )
    jax.effects_barrier()
    grid = process.grid(5)
    expected = [grid[0], *(sigma for step in grid[1:5] for sigma in (step, step))]
    np.testing.assert_allclose(sorted(seen, reverse=True), expected, rtol=1e-5)
    assert np.isfinite(out).all()
    once = edm_samplers.heun(
        process, lambda x, s: jnp.full_like(x, 0.25), x, image_keys(0, "sample", jnp.arange(1)), 1
    )
    np.testing.assert_allclose(once, 0.25, atol=1e-5)


def test_heun_flow_takes_one_euler_step_at_the_end():
    """2 * steps - 1 evaluations, none of them at t = 1, where it ends at the estimate."""
    x, seen = jnp.full((1, 1, 1, 1), 0.3), []

    def denoiser(x, t):
        jax.debug.callback(lambda t: seen.append(float(t[0])), t)
        return jnp.full_like(x, 0.25)

    out = flow_samplers.heun_flow(Flow(), denoiser, x, None, 4, shift=0.5)
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(seen), [0, *np.repeat([1 / 7, 1 / 3, 3 / 5], 2)], rtol=1e-6)
    np.testing.assert_allclose(out, 0.25, atol=1e-6)


@pytest.mark.parametrize("name", ["euler", "heun_flow", "euler_maruyama"])
def test_the_time_shift_moves_steps_and_nothing_else(name):
    """Shorter steps at one end are longer at the other; the solution is the same."""
    process, sampler, options, steps = ALL[name]
    draw = lambda shift: sampled(
        process, sampler, options | dict(shift=shift), max(steps, 400), n=2000
    )
    even, shifted = draw(1.0), draw(0.3)
    assert np.abs(even - shifted).max() > 0
    if name != "euler_maruyama":  # whose noise is of another length at each step
        assert np.median(np.linalg.norm(even - shifted, axis=1)) < 0.01
    assert_is_the_mixture(shifted, error=0.01)


def test_noise_of_the_flows_sde():
    """Each image's own, and none at all with diffusion 0."""
    process, sampler = Flow(), flow_samplers.euler_maruyama
    draw = lambda n, **options: sampled(process, sampler, options, 8, n=n)
    np.testing.assert_allclose(draw(4), draw(8)[:4], atol=1e-5)
    np.testing.assert_allclose(
        draw(4, diffusion=0.0), sampled(process, flow_samplers.euler, {}, 8, n=4), atol=1e-6
    )
    assert np.abs(draw(4) - draw(4, diffusion=0.5)).max() > 0.01


def test_churn_belongs_to_the_image_and_to_its_range():
    process, options = EDM(), CHURN
    draw = lambda n, **more: sampled(process, edm_samplers.heun, options | more, 6, n=n)
    np.testing.assert_allclose(draw(4), draw(8)[:4], atol=1e-5)
    plain = sampled(process, edm_samplers.heun, {}, 6, n=4)
    np.testing.assert_array_equal(draw(4, s_min=90.0, s_max=100.0), plain)
    assert np.abs(draw(4) - plain).max() > 0.01


def test_clipping_keeps_the_estimate_in_range():
    keys = image_keys(0, "test", jnp.arange(4))
    x = image_noise(keys, (4, 4, 3))
    for process, sampler, options, _ in ALL.values():
        out = sampler(process, lambda x, level: 5 * jnp.ones_like(x), x, keys, 8, **options)
        assert np.abs(np.asarray(out) - 1).max() < 0.05


@pytest.mark.parametrize(
    "process", [DDPM(), VP(), EDM()], ids=lambda process: type(process).__name__
)
def test_grids_fall_to_zero(process):
    for steps in (1, 7, 100, 1000):
        grid = process.grid(steps)
        assert len(grid) == steps + 1 and (np.diff(grid) < 0).all() and grid[-1] == 0
    with pytest.raises(ValueError, match=r"^0 "):
        process.grid(0)


def test_grids_of_flows_rise_to_one():
    for steps in (1, 7, 100):
        np.testing.assert_allclose(Flow().grid(steps), np.arange(steps + 1) / steps, atol=1e-12)
    with pytest.raises(ValueError, match=r"^0 .*positive"):
        Flow().grid(0)


@pytest.mark.parametrize("churn", [1.6, 40.0], ids=["free", "bounded"])
def test_churn_is_the_papers(churn):
    """Against a loop over the steps of algorithm 2 in float64, with noise of another scale than
    1.
    """
    process, steps, keys = EDM(), 8, image_keys(0, "test", jnp.arange(3))
    x = image_noise(keys, (2, 2, 1))
    denoiser = lambda x, sigma: x / (1 + sigma)
    ours = edm_samplers.heun(
        process,
        lambda x, sigma: denoiser(x, sigma[:, None, None, None]),
        x,
        keys,
        steps,
        clip=False,
        **CHURN | dict(s_churn=churn, s_noise=1.5),
    )
    grid = process.grid(steps)
    x = np.asarray(x, np.float64) * grid[0]
    for i, (sigma, after) in enumerate(itertools.pairwise(grid)):
        gamma = min(churn / steps, np.sqrt(2) - 1) if 0.05 <= sigma <= 50 else 0
        raised = sigma * (1 + gamma)
        x = x + 1.5 * np.sqrt(raised**2 - sigma**2) * np.asarray(
            step_noise(keys, i, x.shape[1:]), np.float64
        )
        slope = (x - denoiser(x, raised)) / raised
        euler = x + (after - raised) * slope
        x = (
            x + (after - raised) * (slope + (euler - denoiser(euler, after)) / after) / 2
            if after
            else euler
        )
    np.testing.assert_allclose(ours, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_the_last_step_ends_at_the_estimate(name):
    """Without noise, that of the stochastic ones' other steps included."""
    process, sampler, options, _ = ALL[name]
    keys = image_keys(0, "test", jnp.arange(3))
    out = sampler(
        process,
        lambda x, level: jnp.full_like(x, 0.25),
        image_noise(keys, (2, 2, 1)),
        keys,
        5,
        **options,
    )
    np.testing.assert_allclose(out, 0.25, atol=1e-5)
