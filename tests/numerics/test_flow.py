"""Flow matching against closed forms, known distributions and LightningDiT's numbers."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ddaepp_jax.diffusion.flow import Flow
from ddaepp_jax.diffusion.guidance import Guidance
from ddaepp_jax.diffusion.samplers import flow as flow_samplers

PROCESS = Flow()
GOLDEN = dict(np.load(Path(__file__).parents[1] / "golden" / "flow.npz"))


def images(*names):
    return [jnp.asarray(GOLDEN[name]) for name in names]


def field(labelled, x, t):
    """Returns the velocity of the golden trajectories, with a label (1) or without one (0)."""
    return jnp.cos(2 * x) - t[:, None, None, None] * x + labelled * (0.1 * jnp.sin(3 * x) + 0.05)


def denoiser(labelled):
    return partial(PROCESS.denoised, partial(field, labelled))


@pytest.mark.smoke
def test_noisy_image_and_loss_are_the_references():
    x0, noise, t, out = images("x0", "noise", "t", "out")
    np.testing.assert_allclose(PROCESS.perturb(x0, noise, t), GOLDEN["x_t"], atol=1e-5)
    np.testing.assert_allclose(x0 - noise, GOLDEN["velocity"], atol=1e-5)
    np.testing.assert_allclose(
        PROCESS.loss_terms(out, x0, noise, t), GOLDEN["mse"] + GOLDEN["cosine"], rtol=1e-5
    )
    np.testing.assert_allclose(
        Flow(cosine_loss=False).loss_terms(out, x0, noise, t), GOLDEN["mse"], rtol=1e-5
    )


@pytest.mark.smoke
def test_euler_with_the_time_shift_is_the_references():
    (start,) = images("start")
    times = []

    def recording(x, t):
        jax.debug.callback(lambda t: times.append(float(t[0])), t)
        return denoiser(1)(x, t)

    run = jax.jit(
        lambda x: flow_samplers.euler(PROCESS, recording, x, None, 249, clip=False, shift=0.3)
    )
    np.testing.assert_allclose(run(start), GOLDEN["euler"], atol=1e-5)
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(times), GOLDEN["times"][:-1], atol=1e-6)


def test_guidance_is_the_references():
    """The scale is 6.7 on the first three channels, from t = 0.1 on."""
    (start,) = images("start")
    guidance = Guidance(6.7, (0.1, 1.0), channels=3)
    network = lambda y: denoiser(0 if y is None else 1)
    guided = guidance.denoiser(network, jnp.zeros(len(start), int))
    for name, t in (("guided_out", 0.05), ("guided_in", 0.6)):
        velocity = (guided(start, jnp.full(len(start), t)) - start) / (1 - t)
        np.testing.assert_allclose(velocity, GOLDEN[name], atol=1e-5)
    run = jax.jit(
        lambda x: flow_samplers.euler(PROCESS, guided, x, None, 249, clip=False, shift=0.3)
    )
    np.testing.assert_allclose(run(start), GOLDEN["guided"], atol=1e-5)


@pytest.mark.parametrize("diffusion", [1.0, 0.7])
def test_euler_maruyama_is_the_references(diffusion, monkeypatch):
    (start,) = images("start")
    unused = jnp.full((1, *start.shape), 9.0)  # The last step adds no noise.
    noise = jnp.concatenate([jnp.asarray(GOLDEN["step_noise"]), unused])
    monkeypatch.setattr(flow_samplers, "step_noise", lambda keys, number, shape: noise[number])
    run = partial(
        flow_samplers.euler_maruyama, PROCESS, denoiser(1), keys=None, steps=20, clip=False
    )
    np.testing.assert_allclose(
        run(x=start, diffusion=diffusion), GOLDEN[f"sde_{diffusion:g}"], atol=1e-5
    )


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_perturb_and_denoise_are_inverse(t, seed):
    rng = np.random.default_rng(seed)
    x0, noise = (jnp.asarray(rng.standard_normal((2, 4, 6, 3)), jnp.float32) for _ in range(2))
    level = jnp.full(2, t, jnp.float32)
    x_t = PROCESS.perturb(x0, noise, level)
    np.testing.assert_allclose(x_t, np.float32(t) * x0 + (1 - np.float32(t)) * noise, atol=1e-6)
    np.testing.assert_allclose(PROCESS.denoised(lambda x, t: x0 - noise, x_t, level), x0, atol=1e-5)


def test_loss_of_the_true_velocity_is_zero_and_the_cosine_term_ignores_the_length():
    x0, noise, out = (jax.random.normal(jax.random.key(i), (3, 4, 6, 5)) for i in range(3))
    level = jnp.full(3, 0.5)
    loss = partial(PROCESS.loss_terms, x0=x0, noise=noise, level=level)
    np.testing.assert_allclose(loss(x0 - noise), np.zeros(3), atol=1e-6)
    plain = partial(Flow(cosine_loss=False).loss_terms, x0=x0, noise=noise, level=level)
    cosine_term = loss(out) - plain(out)
    np.testing.assert_allclose(loss(7 * out) - plain(7 * out), cosine_term, atol=1e-4)
    v_hat, v = np.asarray(out, np.float64), np.asarray(x0 - noise, np.float64)
    unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)
    expected = 1 - (unit(v_hat) * unit(v)).sum(-1).mean((1, 2))
    np.testing.assert_allclose(cosine_term, expected, atol=1e-5)
    np.testing.assert_allclose(loss(0 * out) - plain(0 * out), np.ones(3), rtol=1e-6)
    # The output is zero where a last layer starts at zero.
    assert np.isfinite(jax.grad(lambda out: loss(out).sum())(0 * out)).all()


@pytest.mark.parametrize(
    ("process", "law"),
    [
        (PROCESS, stats.norm()),
        (Flow(p_mean=-0.4, p_std=0.7), stats.norm(-0.4, 0.7)),
        (Flow(time_sampling="uniform"), stats.logistic()),  # The logit of a uniform number.
    ],
    ids=["logit-normal", "another", "uniform"],
)
def test_training_levels_have_their_distribution(process, law):
    levels = np.asarray(process.sample_noise_level(jax.random.key(0), 50_000), np.float64)
    assert levels.dtype == np.float64 and levels.min() >= 0 and levels.max() < 1
    logits = np.log(levels / (1 - levels))
    assert stats.kstest(logits, law.cdf).pvalue > 0.001
    # Reported levels are the medians of equally probable parts.
    reported = process.loss_levels(8).astype(np.float64)
    probabilities = law.cdf(np.log(reported / (1 - reported)))
    np.testing.assert_allclose(probabilities, (np.arange(8) + 0.5) / 8, atol=2e-4)


def test_training_levels_are_the_references(monkeypatch):
    """The same normal draws give the same times."""
    monkeypatch.setattr(
        jax.random, "normal", lambda rng, shape, dtype: jnp.asarray(GOLDEN["logit"])
    )
    np.testing.assert_allclose(PROCESS.sample_noise_level(None, 5), GOLDEN["t"], rtol=1e-6)


def test_levels():
    for levels in (PROCESS.loss_levels(10), PROCESS.probe_levels()):
        assert (np.diff(levels) > 0).all() and min(levels) > 0 and max(levels) < 1
    x = jnp.ones((1, 2, 2, 1))
    fed, t = PROCESS.inputs(x, jnp.array([0.25]))
    np.testing.assert_array_equal(fed, x)
    np.testing.assert_array_equal(t, [0.25])
    for level in (0, 0.5, 1):
        assert PROCESS.as_level(level) == np.float32(level)
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"^{wrong} "):
            PROCESS.as_level(wrong)


@pytest.mark.parametrize(
    "fields",
    [
        dict(time_sampling="normal"),
        dict(p_std=0.0),
        dict(p_std=float("nan")),
        dict(time_input="999t"),
    ],
    ids=str,
)
def test_impossible_processes_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Flow(**fields)
