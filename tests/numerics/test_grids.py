"""Grids of noise levels by their definitions, and the samplers on them by laws of Gaussian data.

For data N(0, s^2) the exact denoiser is linear, so that a sampler multiplies its start noise by a
number: the deviation of its samples.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.diffusion.edm import EDM
from ddaepp_jax.diffusion.samplers import grids, variance_preserving
from ddaepp_jax.diffusion.samplers.edm import heun
from ddaepp_jax.diffusion.vp import VP

# What a grid is even in, as a function of t and of log alpha_bar.
EVEN_IN = {
    "quadratic": lambda t, log_alpha_bar: np.sqrt(t),
    "log-snr": lambda t, log_alpha_bar: -np.log(np.expm1(-log_alpha_bar)) / 2,
    "karras": lambda t, log_alpha_bar: np.expm1(-log_alpha_bar) ** (1 / 14),
}
PROCESSES = pytest.mark.parametrize("process", [VP(), DDPM()], ids=["vp", "ddpm"])
DEVIATIONS = pytest.mark.parametrize("deviation", [0.5, 0.2])
GRIDS = pytest.mark.parametrize("grid", grids.GRIDS)


@given(
    steps=st.integers(2, 300),
    grid=st.sampled_from([*EVEN_IN]),
    beta_min=st.floats(0.05, 20),
    last=st.floats(1e-4, 0.1),
)
def test_continuous_grids_are_even_where_they_should_be(steps, grid, beta_min, last):
    process = VP(beta_min=beta_min, last=last)
    levels = grids.levels(process, grid, steps)
    assert levels.dtype == np.float32 and len(levels) == steps + 1
    assert (np.diff(levels) < 0).all() and levels[-1] == 0
    np.testing.assert_allclose(levels[[0, -2]], [1, last], rtol=1e-6)
    t = levels[:-1].astype(np.float64)
    even = EVEN_IN[grid](t, -(beta_min * t + (20 - beta_min) * t**2 / 2))
    ideal = np.linspace(even[0], even[-1], steps)
    np.testing.assert_allclose(even, ideal, atol=1e-5 * np.abs(even).max())


@given(total=st.integers(1, 1000), part=st.floats(0, 1), grid=st.sampled_from([*EVEN_IN]))
def test_discrete_grids_are_different_whole_steps(total, part, grid):
    process = DDPM(num_steps=total)
    steps = 1 + round(part * (total - 1))
    levels = grids.levels(process, grid, steps)
    assert levels.dtype == np.int32 and len(levels) == steps + 1
    assert (np.diff(levels) < 0).all() and levels[0] == total and levels[-1] == 0
    if steps > 1:
        assert levels[-2] == 1
    if steps == total:
        np.testing.assert_array_equal(levels, np.arange(total, -1, -1))


@pytest.mark.parametrize("grid", EVEN_IN)
def test_discrete_levels_are_the_nearest_steps(grid):
    """Nearest in time, save at the clean end, where several would be the same."""
    process, steps = DDPM(), 20
    levels = grids.levels(process, grid, steps)[:-1]
    t = np.arange(1, 1001)
    even = EVEN_IN[grid](t, np.cumsum(np.log1p(-np.linspace(1e-4, 0.02, 1000))))
    order = np.argsort(even)
    ideal = np.interp(np.linspace(even[-1], even[0], steps), even[order], t[order])
    distant = levels > 5
    assert distant.sum() >= 15
    assert np.abs(levels - ideal)[distant].max() < 0.6


def sampled_deviation(process, sampler, deviation, steps, **options):
    """Returns the deviation of samples, from the exact denoiser E[x0 | x_t] = gain x_t."""

    def denoiser(x, level):
        if isinstance(process, EDM):
            signal, sigma = jnp.ones_like(level), level
        else:
            signal, sigma = process.coefficients(level)
        gain = signal * deviation**2 / (signal**2 * deviation**2 + sigma**2)
        return gain[:, None, None, None] * x

    draw = jax.jit(lambda x: sampler(process, denoiser, x, None, steps, clip=False, **options))
    return float(draw(jnp.ones((1, 1, 1, 1)))[0, 0, 0, 0])


def limit(deviation, first, last):
    """Returns the deviation to which many steps lead, whatever the grid.

    The ODE keeps x_t / sqrt(signal^2 s^2 + sigma^2). The last step, to x0_hat, is exact nowhere.

    Args:
      deviation: s.
      first, last: (signal, sigma) of the noisiest level and of the cleanest before 0.
    """
    spread = lambda signal, sigma: np.hypot(signal * deviation, sigma)
    return last[0] * deviation**2 / spread(*last) / spread(*first)


def ends(process):
    return [(np.sqrt(a), np.sqrt(1 - a)) for a in process.alpha_bar_at(np.array([process.ends]))[0]]


@PROCESSES
@DEVIATIONS
@pytest.mark.parametrize(("steps", "bound"), [(20, 0.02), (50, 0.003)])
def test_dpmpp_2m_has_the_datas_deviation_in_few_steps(process, deviation, steps, bound):
    sampler = variance_preserving.dpmpp_2m
    assert abs(sampled_deviation(process, sampler, deviation, steps) / deviation - 1) < bound
    even = sampled_deviation(process, sampler, deviation, steps, grid="time")
    assert abs(even / deviation - 1) > 10 * bound


@PROCESSES
@DEVIATIONS
@GRIDS
def test_ddim_multiplies_by_the_closed_form(process, deviation, grid):
    """In float64: the part along x0_hat and the part along epsilon of each step."""
    steps = 20
    levels = grids.levels(process, grid, steps)
    alpha_bar = process.alpha_bar_at(levels)
    expected = 1.0
    for a_t, a_s in itertools.pairwise(alpha_bar):
        variance = a_t * deviation**2 + 1 - a_t  # of x_t
        expected *= (np.sqrt(a_s * a_t) * deviation**2 + np.sqrt((1 - a_s) * (1 - a_t))) / variance
    made = sampled_deviation(process, variance_preserving.ddim, deviation, steps, grid=grid)
    np.testing.assert_allclose(made, expected, rtol=2e-4)


@DEVIATIONS
@pytest.mark.parametrize("grid", ["quadratic", "log-snr"])
def test_papers_grids_halve_ddims_error(deviation, grid):
    error = lambda **options: abs(
        sampled_deviation(VP(), variance_preserving.ddim, deviation, 20, **options) / deviation - 1
    )
    assert error(grid=grid) < error() * (0.9 if deviation == 0.5 else 0.5)


@DEVIATIONS
@pytest.mark.parametrize("grid", [*EVEN_IN])
def test_dpmpp_2m_is_of_second_order_on_good_grids(deviation, grid):
    sampler, exact = variance_preserving.dpmpp_2m, limit(deviation, *ends(VP()))
    counts = (40, 80, 160)
    errors = [
        abs(sampled_deviation(VP(), sampler, deviation, n, grid=grid) / exact - 1) for n in counts
    ]
    for before, after in itertools.pairwise(errors):
        assert 3.2 < before / after < 5.5, errors


@DEVIATIONS
def test_heun_is_of_second_order_on_edms_grid(deviation):
    process = EDM()
    exact = limit(deviation, (1, process.sigma_max), (1, process.sigma_min)) * process.sigma_max
    errors = [abs(sampled_deviation(process, heun, deviation, n) / exact - 1) for n in (18, 36, 72)]
    for before, after in itertools.pairwise(errors):
        assert 3.2 < before / after < 5.5, errors


@PROCESSES
@GRIDS
def test_every_grid_refuses_wrong_numbers_of_steps(process, grid):
    for steps in (0, 1001) if isinstance(process, DDPM) else (0,):
        with pytest.raises(ValueError, match=f"^{steps} "):
            grids.levels(process, grid, steps)
