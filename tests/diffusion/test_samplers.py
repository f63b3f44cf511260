"""Every sampler on a Gaussian mixture with the exact denoiser, without clipping."""

import functools
import itertools

import jax
import jax.numpy as jnp
import mixture
import numpy as np
import pytest

from ddaepp_jax.diffusion import samplers
from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.diffusion.edm import EDM
from ddaepp_jax.diffusion.noise import image_keys, image_noise
from ddaepp_jax.diffusion.vp import VP

N = 10_000
CHURN = dict(s_churn=40.0, s_min=0.05, s_max=50.0, s_noise=1.0)
DETERMINISTIC = {
    "ddim": (DDPM(), samplers.ddim, {}, 250),
    "ddim, continuous": (VP(), samplers.ddim, {}, 250),
    "heun": (EDM(), samplers.heun, {}, 40),
}
STOCHASTIC = {
    "ddpm": (DDPM(), samplers.ddpm, {}, 1000),
    "ddpm, continuous": (VP(), samplers.ddpm, {}, 1000),
    "heun with churn": (EDM(), samplers.heun, CHURN, 100),
}


def sampled(process, sampler, options, steps, n=N, seed=0):
    """(n, 2) samples, the same start noise for the same seed."""
    levels = process.coefficients if hasattr(process, "coefficients") else lambda s: (jnp.ones_like(s), s)
    exact = mixture.denoiser(levels)

    @functools.partial(jax.jit, static_argnums=1)
    def run(seed, n):
        keys = image_keys(seed, "sample", jnp.arange(n))
        return sampler(process, exact, image_noise(keys, (1, 1, 2)), keys, steps, clip=False, **options)

    return np.asarray(run(seed, n), np.float64)[:, 0, 0]


def assert_is_the_mixture(samples, error):
    """Mean, covariance and mode weights within 4 standard errors, and what the steps' length adds."""
    n = len(samples)
    np.testing.assert_array_less(
        np.abs(samples.mean(0) - mixture.MEAN), 4 * np.sqrt(np.diag(mixture.COVARIANCE) / n) + error
    )
    true = mixture.drawn(200_000) - mixture.MEAN
    spread = np.std(true[:, :, None] * true[:, None, :], axis=0)  # of the products whose mean is the covariance
    np.testing.assert_array_less(np.abs(np.cov(samples.T) - mixture.COVARIANCE), 4 * spread / np.sqrt(n) + error)
    expected = np.bincount(mixture.modes(mixture.drawn(200_000))) / 200_000
    counted = np.bincount(mixture.modes(samples), minlength=3) / n
    np.testing.assert_array_less(np.abs(counted - expected), 4.5 * np.sqrt(expected * (1 - expected) / n) + error)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_have_the_mixtures_law(name):
    assert_is_the_mixture(sampled(*DETERMINISTIC[name]), error=0.004)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_have_the_mixtures_moments(name):
    assert_is_the_mixture(sampled(*STOCHASTIC[name]), error=0.004)


@pytest.mark.parametrize(
    ("name", "order", "fine"), [("ddim", 1, 1000), ("ddim, continuous", 1, 4000), ("heun", 2, 512)]
)
def test_error_falls_with_the_samplers_order(name, order, fine):
    """From the same start, the distance to a fine solution falls as 2**-order while steps double."""
    process, sampler, options, _ = DETERMINISTIC[name]
    counts = (50, 100, 200) if order == 1 else (24, 48, 96)
    exact, *coarse = (sampled(process, sampler, options, steps, n=400) for steps in (fine, *counts))
    errors = [np.sqrt(np.mean((samples - exact) ** 2)) for samples in coarse]
    assert errors[-1] < 0.02
    for before, after in itertools.pairwise(errors):
        assert 0.8 * 2**order < before / after < 1.6 * 2**order, errors


def test_heun_takes_one_euler_step_at_the_end():
    """2 * steps - 1 evaluations: the denoiser is never asked at sigma 0, and a step alone is Euler's."""
    process, x = EDM(), jnp.full((1, 1, 1, 1), 0.3)
    seen = []

    def denoiser(x, sigma):
        jax.debug.callback(lambda s: seen.append(float(s[0])), sigma)
        return x / 2

    out = samplers.heun(process, denoiser, x, image_keys(0, "sample", jnp.arange(1)), 5, clip=False)
    jax.effects_barrier()
    grid = process.grid(5)
    expected = [grid[0], *(sigma for step in grid[1:5] for sigma in (step, step))]
    np.testing.assert_allclose(sorted(seen, reverse=True), expected, rtol=1e-5)
    assert np.isfinite(out).all()
    once = samplers.heun(process, lambda x, s: jnp.full_like(x, 0.25), x, image_keys(0, "sample", jnp.arange(1)), 1)
    np.testing.assert_allclose(once, 0.25, atol=1e-5)


def test_churn_belongs_to_the_image_and_to_its_range():
    process, options = EDM(), CHURN
    draw = lambda n, **more: sampled(process, samplers.heun, options | more, 6, n=n)
    np.testing.assert_allclose(draw(4), draw(8)[:4], atol=1e-5)
    plain = sampled(process, samplers.heun, {}, 6, n=4)
    np.testing.assert_array_equal(draw(4, s_min=90.0, s_max=100.0), plain)
    assert np.abs(draw(4) - plain).max() > 0.01


def test_clipping_keeps_the_estimate_in_range():
    keys = image_keys(0, "test", jnp.arange(4))
    x = image_noise(keys, (4, 4, 3))
    for process, sampler in (
        (DDPM(), samplers.ddim),
        (DDPM(), samplers.ddpm),
        (VP(), samplers.ddim),
        (EDM(), samplers.heun),
    ):
        out = sampler(process, lambda x, level: 5 * jnp.ones_like(x), x, keys, 8)
        assert np.abs(np.asarray(out) - 1).max() < 0.05


@pytest.mark.parametrize("process", [DDPM(), VP(), EDM()], ids=lambda process: type(process).__name__)
def test_grids_fall_to_zero(process):
    for steps in (1, 7, 100, 1000):
        grid = process.grid(steps)
        assert len(grid) == steps + 1 and (np.diff(grid) < 0).all() and grid[-1] == 0
    with pytest.raises(ValueError, match="0 is not"):
        process.grid(0)
