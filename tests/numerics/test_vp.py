"""The continuous variance-preserving process against the integral of beta, and against DDPM."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.diffusion.vp import VP

PROCESS = VP()


def test_alpha_bar_is_the_exponential_of_betas_integral():
    for t in (0.0, 0.011, 0.37, 1.0):
        s = np.linspace(0, t, 20_001)
        integral = np.trapezoid(0.1 + 19.9 * s, s)
        np.testing.assert_allclose(PROCESS.alpha_bar_at(np.array(t)), np.exp(-integral), rtol=1e-9)
        signal, sigma = PROCESS.coefficients(jnp.float32(t))
        np.testing.assert_allclose(
            [signal, sigma], [np.exp(-integral / 2), np.sqrt(-np.expm1(-integral))], rtol=1e-5
        )


def test_ddpm_is_the_discretisation():
    """alpha_bar and the probe levels differ by the step's length.

    In the middle that is 0.5 % of alpha_bar's logarithm.
    """
    steps = np.array([11, 100, 500, 1000])
    continuous = np.log(PROCESS.alpha_bar_at(steps / 1000))
    discrete = np.log(DDPM().alpha_bar[steps])
    np.testing.assert_allclose(continuous, discrete, rtol=0.06)
    np.testing.assert_allclose(continuous[1:], discrete[1:], rtol=0.01)
    np.testing.assert_allclose(np.multiply(PROCESS.probe_levels(), 1000), DDPM().probe_levels())


def test_perturb_and_denoise_are_inverse():
    noise, x0 = (jax.random.normal(jax.random.key(i), (3, 4, 6, 3)) for i in range(2))
    level = jnp.array([0.001, 0.3, 0.9])
    x_t = PROCESS.perturb(x0, noise, level)
    np.testing.assert_allclose(PROCESS.denoised(lambda x, t: noise, x_t, level), x0, atol=2e-4)
    np.testing.assert_array_equal(PROCESS.loss_terms(noise, x0, noise, level), np.zeros(3))


def test_levels_and_times():
    levels = np.asarray(PROCESS.sample_noise_level(jax.random.key(0), 100_000))
    assert levels.min() >= 0 and levels.max() < 1
    counts = np.histogram(levels, bins=10, range=(0, 1))[0]
    # Chi-square with 9 degrees of freedom, p = 0.001.
    assert np.square(counts - 10_000).sum() / 10_000 < 27.9
    for form, expected in (("t", 0.5), ("999t", 499.5)):
        _, t = VP(time_input=form).inputs(jnp.zeros((1, 2, 2, 1)), jnp.array([0.5]))
        np.testing.assert_allclose(t, [expected])
    assert PROCESS.as_level(0.5) == np.float32(0.5)
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"^{wrong} "):
            PROCESS.as_level(wrong)


@pytest.mark.parametrize(
    "fields", [dict(beta_min=2.0, beta_max=1.0), dict(last=0.0), dict(time_input="t/T")], ids=str
)
def test_impossible_processes_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        VP(**fields)
