"""DDPM and its samplers on Gaussian data, whose exact denoiser and sampler output are known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.diffusion.guidance import guided
from ddaepp_jax.diffusion.noise import image_keys, image_noise
from ddaepp_jax.diffusion.samplers import variance_preserving as samplers

PROCESS = DDPM()
# The values are independent Gaussians, one distribution for each channel.
MEAN = np.array([0.3, -0.2, 0.6])
STD = np.array([0.25, 0.5, 0.1])


def exact_epsilon(x, t):
    """Returns E[epsilon | x_t = x] for x_0 ~ N(MEAN, STD^2), the output of a perfect network.

    The time input is t / T.
    """
    steps = jnp.round(t * 1000).astype(int)
    a = jnp.asarray(PROCESS.alpha_bar, jnp.float32)[steps][:, None, None, None]
    mean = jnp.asarray(MEAN, jnp.float32)[None, None, None]
    var = jnp.asarray(STD**2, jnp.float32)[None, None, None]
    return jnp.sqrt(1 - a) * (x - jnp.sqrt(a) * mean) / (a * var + 1 - a)


def exact_denoiser(x_t, level):
    return PROCESS.denoised(exact_epsilon, x_t, level)


@pytest.mark.smoke
def test_schedule_is_the_papers():
    alpha_bar = PROCESS.alpha_bar
    assert alpha_bar[0] == 1 and len(alpha_bar) == 1001
    product = 1.0
    for t in range(1, 1001):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * (t - 1) / 999)
        assert abs(alpha_bar[t] - product) < 1e-12
    assert abs(alpha_bar[1000] - 4.0358e-05) < 1e-8  # The published last value.


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 1000), st.integers(0, 2**32 - 1))
def test_perturb_and_denoise_are_inverse_and_moments_are_exact(t, seed):
    rng = np.random.default_rng(seed)
    x0, noise = (jnp.asarray(rng.standard_normal((2, 4, 6, 3)), jnp.float32) for _ in range(2))
    level = jnp.array([t, t])
    x_t = PROCESS.perturb(x0, noise, level)
    a = PROCESS.alpha_bar[t]
    x0_64, noise_64 = np.asarray(x0, np.float64), np.asarray(noise, np.float64)
    np.testing.assert_allclose(x_t, np.sqrt(a) * x0_64 + np.sqrt(1 - a) * noise_64, atol=1e-6)
    x0_hat = PROCESS.denoised(lambda x, t: noise, x_t, level)
    np.testing.assert_allclose(x0_hat, x0, atol=1e-5 / np.sqrt(a))


def test_exact_denoiser_minimises_the_loss():
    """The exact denoiser's loss is E Var(epsilon | x_t), in closed form; others are larger."""
    n, t = 4096, 300
    noise, data = (jax.random.normal(jax.random.key(i), (n, 2, 2, 3)) for i in range(2))
    mean, std = (jnp.asarray(a, jnp.float32)[None, None, None] for a in (MEAN, STD))
    x0 = data * std + mean
    level = jnp.full((n,), t)
    inputs = PROCESS.inputs(PROCESS.perturb(x0, noise, level), level)
    out = exact_epsilon(*inputs)
    loss = PROCESS.loss_terms(out, x0, noise, level).mean()
    a = PROCESS.alpha_bar[t]
    assert abs(loss - np.mean(a * STD**2 / (a * STD**2 + 1 - a))) < 0.01 * loss
    assert PROCESS.loss_terms(1.1 * out, x0, noise, level).mean() > loss
    assert PROCESS.loss_terms(out + 0.1, x0, noise, level).mean() > loss


def test_training_levels_are_uniform_over_the_steps():
    levels = np.asarray(PROCESS.sample_noise_level(jax.random.key(0), 200_000))
    assert levels.min() == 1 and levels.max() == 1000
    counts = np.histogram(levels, bins=np.arange(0.5, 1001, 100))[0]
    # Chi-square with 9 degrees of freedom, p = 0.001.
    assert np.square(counts - 20_000).sum() / 20_000 < 27.9


@pytest.mark.parametrize(
    ("form", "expected"), [("t", 500), ("t/T", 0.5), ("999t/T", 499.5), ("t-1", 499)]
)
def test_time_inputs(form, expected):
    _, t = DDPM(time_input=form).inputs(jnp.zeros((1, 2, 2, 1)), jnp.array([500]))
    np.testing.assert_allclose(t, [expected])


def start(n, seed=0, size=(4, 4, 3)):
    keys = image_keys(seed, "test", jnp.arange(n))
    return image_noise(keys, size), keys


def ddim_exact(x):
    """Returns the end of the probability-flow ODE from x_T = x.

    It is the monotone map of one Gaussian onto the other.
    """
    a = PROCESS.alpha_bar[1000]
    z = (np.asarray(x, np.float64) - np.sqrt(a) * MEAN) / np.sqrt(a * STD**2 + 1 - a)
    return MEAN + STD * z


def test_ddim_converges_to_the_exact_solution_at_first_order():
    x, keys = start(4)
    errors = []
    for steps in (50, 100, 200, 1000):
        out = jax.jit(samplers.ddim, static_argnums=(0, 1, 4, 5))(
            PROCESS, exact_denoiser, x, keys, steps, False
        )
        errors.append(np.abs(np.asarray(out) - ddim_exact(x)).max())
    assert errors[1] < 0.65 * errors[0] and errors[2] < 0.65 * errors[1]
    assert errors[-1] < 0.02, errors


def ancestral_law(steps):
    """Returns the mean and variance of the ancestral sampler's output with the exact denoiser.

    A float64 recursion from Bayes' rule: each step is affine in x, with x0_hat = E[x_0 | x_t] and
    x_s ~ q(x_s | x_t, x0_hat).
    """
    times = PROCESS.grid(steps)
    mean, var = np.zeros(3), np.ones(3)
    for t, s in itertools.pairwise(times):
        a_t, a_s = PROCESS.alpha_bar[t], PROCESS.alpha_bar[s]
        # x0_hat = MEAN + gain (x - sqrt(a_t) MEAN)
        gain = np.sqrt(a_t) * STD**2 / (a_t * STD**2 + 1 - a_t)
        step = a_t / a_s  # x_t = sqrt(step) x_s + sqrt(1 - step) noise
        precision = step / (1 - step) + (1 / (1 - a_s) if s else np.inf)
        on_x0 = np.sqrt(a_s) / (1 - a_s) / precision if s else 1.0
        on_x = np.sqrt(step) / (1 - step) / precision if s else 0.0
        slope = on_x0 * gain + on_x
        mean = slope * mean + on_x0 * (MEAN - gain * np.sqrt(a_t) * MEAN)
        var = slope**2 * var + ((1 - step) if s else 0.0)
    return mean, var


@pytest.mark.parametrize("steps", [25, 1000])
def test_ancestral_sampling_has_the_exact_distribution(steps):
    x, keys = start(1500)
    out = jax.jit(samplers.ddpm, static_argnums=(0, 1, 4, 5))(
        PROCESS, exact_denoiser, x, keys, steps, False
    )
    samples = np.asarray(out, np.float64).reshape(-1, 3)
    mean, var = ancestral_law(steps)
    n = len(samples)
    assert (np.abs(samples.mean(0) - mean) < 4 * np.sqrt(var / n)).all()
    assert (np.abs(samples.var(0) / var - 1) < 4 * np.sqrt(2 / n)).all()
    if steps == 1000:  # The distribution is then that of the data.
        np.testing.assert_allclose(mean, MEAN, atol=0.01)
        np.testing.assert_allclose(var, STD**2, rtol=0.15)


@pytest.mark.parametrize("steps", [1, 7, 100, 1000])
def test_grid(steps):
    times = PROCESS.grid(steps)
    assert times[-2] == 1 and times[0] >= 1000 - 1000 / steps
    if steps == 100:
        np.testing.assert_array_equal(times[:3], [991, 981, 971])


def test_steps_out_of_range_are_refused():
    x, keys = start(1)
    for steps in (0, 1001):
        with pytest.raises(ValueError, match=f"^{steps} .*1000"):
            samplers.ddim(PROCESS, exact_denoiser, x, keys, steps)


def test_guiding_x0_is_guiding_epsilon():
    """Guidance of x0_hat equals the papers' formula for epsilon."""
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    level, scale = jnp.array([100, 700]), 2.5
    main, base = exact_epsilon, lambda x, t: 0.3 * x
    denoiser = guided(
        lambda x, level: PROCESS.denoised(main, x, level),
        lambda x, level: PROCESS.denoised(base, x, level),
        scale,
    )
    epsilon = lambda x, t: base(x, t) + scale * (main(x, t) - base(x, t))
    expected = PROCESS.denoised(epsilon, x, level)
    np.testing.assert_allclose(denoiser(x, level), expected, atol=2e-4)


@pytest.mark.smoke
def test_start_noise_is_bitwise_the_images_own():
    """It is the same at any batch size and offset; tests/parallel varies the devices."""
    draw = jax.jit(
        lambda ids, stream="sample": image_noise(image_keys(3, stream, ids), (9, 7, 3)),
        static_argnames="stream",
    )
    whole = np.asarray(draw(jnp.arange(16)))
    for ids in ([5], [5, 6, 7], list(range(15, -1, -1))):
        np.testing.assert_array_equal(np.asarray(draw(jnp.array(ids))), whole[ids])
    other = np.asarray(draw(jnp.arange(16), stream="features"))
    assert abs(np.corrcoef(other.ravel(), whole.ravel())[0, 1]) < 0.06
    assert abs(whole.mean()) < 0.06 and abs(whole.std() - 1) < 0.05
