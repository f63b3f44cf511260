"""Samplers from given start noise, with a given network, against states and images of reference
implementations.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.drawn import drawn_params

from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.diffusion.edm import EDM
from ddaepp_jax.diffusion.samplers import edm as edm_samplers
from ddaepp_jax.diffusion.samplers import variance_preserving as samplers
from ddaepp_jax.diffusion.vp import VP
from ddaepp_jax.released import ddae_unet

GOLDEN = Path(__file__).parents[1] / "golden"
SCHEDULES = np.load(GOLDEN / "schedules.npz")


@pytest.fixture(scope="module")
def network():
    module = ddae_unet.Arguments(
        image_shape=(3, 8, 8), n_channels=32, ch_mults=(1, 2), is_attn=(False, True), n_blocks=1
    ).network()
    shapes = jax.eval_shape(
        module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros((1,))
    )["params"]
    params = drawn_params(
        shapes, partial(ddae_unet.reference_name, module), partial(ddae_unet.arranged, module)
    )
    return lambda x, t: module.apply({"params": params}, x, t)[0]


def test_tables_are_the_references():
    np.testing.assert_allclose(DDPM().alpha_bar, SCHEDULES["alpha_bar_ddpm"], rtol=1e-5)
    np.testing.assert_allclose(DDPM().ddae_alpha_bar, SCHEDULES["alpha_bar_ddim"], rtol=1e-5)
    np.testing.assert_allclose(EDM().grid(18), SCHEDULES["edm_sigmas"], rtol=1e-5)


def test_ddim_with_ddaes_table(network):
    golden, process = np.load(GOLDEN / "trajectory_ddim20.npz"), DDPM(time_input="t/T")
    np.testing.assert_array_equal(process.grid(20), golden["times"])
    sample = partial(
        samplers.ddim, process, partial(process.denoised, network), keys=None, steps=20
    )
    start = jnp.asarray(golden["start"])
    ours = jax.jit(partial(sample, table="ddae"))(start)
    np.testing.assert_allclose(ours, golden["image"], atol=1e-4)
    assert (
        np.abs(jax.jit(sample)(start) - golden["image"]).max() > 0.01
    )  # the standard table is another sampler


def test_heun(network):
    golden, process = np.load(GOLDEN / "trajectory_edm18.npz"), EDM()
    sample = partial(
        edm_samplers.heun, process, partial(process.denoised, network), keys=None, steps=18
    )
    np.testing.assert_allclose(
        jax.jit(sample)(jnp.asarray(golden["start"])), golden["image"], atol=1e-4
    )


@pytest.mark.parametrize("steps", [12, 40])
def test_dpmpp_2m(steps):
    golden, process = np.load(GOLDEN / "dpmpp_2m.npz"), VP(time_input="t")

    def epsilon(x, t):
        signal, sigma = (c[:, None, None, None] for c in process.coefficients(t))
        return sigma * (x - 0.3 * signal) / (0.25 * signal**2 + sigma**2) + 0.3 * signal * jnp.sin(
            2 * x
        )

    sample = partial(
        samplers.dpmpp_2m,
        process,
        partial(process.denoised, epsilon),
        keys=None,
        steps=steps,
        clip=False,
        grid="time",
    )
    np.testing.assert_allclose(
        jax.jit(sample)(jnp.asarray(golden["start"])), golden[f"{steps}"], atol=1e-4
    )
