"""EDM's preconditioning, weight, levels and grid against closed forms and the reference."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddaepp_jax.diffusion.edm import EDM

PROCESS = EDM()
GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "schedules.npz")


@pytest.mark.smoke
def test_preconditioning_weight_and_grid_are_the_references():
    sigma = jnp.asarray(GOLDEN["sigma"], jnp.float32)
    for name, ours in zip(("c_skip", "c_out", "c_in"), PROCESS.preconditioning(sigma), strict=True):
        np.testing.assert_allclose(ours, GOLDEN[name], rtol=1e-5)
    np.testing.assert_allclose(PROCESS.loss_weight(sigma), GOLDEN["weight"], rtol=1e-5)
    _, fed = PROCESS.inputs(jnp.zeros((len(sigma), 1, 1, 1)), sigma)
    np.testing.assert_allclose(fed, GOLDEN["c_noise"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(PROCESS.grid(18), GOLDEN["edm_sigmas"], rtol=1e-5)
    np.testing.assert_allclose(
        PROCESS.probe_levels(), GOLDEN["edm_sigmas"][[15, 14, 13]], rtol=1e-3
    )


@settings(max_examples=25, deadline=None)
@given(st.floats(0.002, 80.0))
def test_preconditioning_keeps_unit_variance(sigma):
    """The network's input and target have unit variance, its loss has unit weight (app. B.6)."""
    c_skip, c_out, c_in = (float(c) for c in PROCESS.preconditioning(jnp.float32(sigma)))
    np.testing.assert_allclose(c_in**2 * (sigma**2 + 0.25), 1, rtol=1e-5)
    # Var((x0 - c_skip x) / c_out)
    target = ((1 - c_skip) ** 2 * 0.25 + c_skip**2 * sigma**2) / c_out**2
    np.testing.assert_allclose(target, 1, rtol=1e-4)
    weight = float(PROCESS.loss_weight(jnp.float32(sigma)))
    np.testing.assert_allclose(weight * c_out**2, 1, rtol=1e-5)


def test_loss_is_the_weighted_error_of_the_estimate():
    """The loss is eq. 8 in float64; that of an exact network is 0."""
    rng = np.random.default_rng(0)
    x0, noise, out = (rng.standard_normal((5, 4, 6, 3)) for _ in range(3))
    sigma = np.array([0.01, 0.1, 0.5, 3.0, 60.0])
    wide = sigma[:, None, None, None]
    x = x0 + wide * noise
    c_skip, c_out = 0.25 / (wide**2 + 0.25), wide * 0.5 / np.sqrt(wide**2 + 0.25)
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    expected = weight * np.square(c_skip * x + c_out * out - x0).mean((1, 2, 3))
    exact = (x0 - c_skip * x) / c_out
    out, x0, noise, sigma, x, exact = (
        jnp.asarray(a, jnp.float32) for a in (out, x0, noise, sigma, x, exact)
    )
    np.testing.assert_allclose(PROCESS.loss_terms(out, x0, noise, sigma), expected, rtol=1e-4)
    assert np.abs(PROCESS.loss_terms(exact, x0, noise, sigma)).max() < 1e-4
    np.testing.assert_allclose(PROCESS.denoised(lambda x, t: exact, x, sigma), x0, atol=2e-5)


def test_training_levels_are_log_normal():
    levels = np.log(np.asarray(PROCESS.sample_noise_level(jax.random.key(0), 100_000), np.float64))
    assert abs(levels.mean() + 1.2) < 4 * 1.2 / np.sqrt(100_000)
    assert abs(levels.std() - 1.2) < 4 * 1.2 / np.sqrt(200_000)
    # Reported levels are the medians of equally probable parts, so that equally many draws lie
    # between two neighbours.
    reported = np.log(PROCESS.loss_levels(5))
    between = np.diff(np.searchsorted(np.sort(levels), reported))
    np.testing.assert_allclose(between / 100_000, 0.2, atol=0.006)


def test_valid_and_invalid_levels():
    assert PROCESS.as_level(0.06) == np.float32(0.06)
    for wrong in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"^{wrong} .*positive"):
            PROCESS.as_level(wrong)


@pytest.mark.parametrize(
    "fields",
    [
        dict(sigma_min=1.0, sigma_max=0.5),
        dict(sigma_data=0.0),
        dict(p_std=-1.0),
        dict(time_input="t"),
    ],
    ids=str,
)
def test_impossible_processes_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        EDM(**fields)
