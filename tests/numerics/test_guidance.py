"""Guidance against its formula, written out step by step in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.diffusion.edm import EDM
from ddaepp_jax.diffusion.flow import Flow
from ddaepp_jax.diffusion.guidance import Guidance, guided
from ddaepp_jax.diffusion.noise import image_keys, image_noise
from ddaepp_jax.diffusion.samplers import edm as edm_samplers
from ddaepp_jax.diffusion.samplers import flow as flow_samplers
from ddaepp_jax.diffusion.samplers import variance_preserving as samplers
from ddaepp_jax.diffusion.vp import VP

N, SHAPE = 3, (2, 2, 5)
LABELS = jnp.arange(N)
SAMPLERS = {
    "ddim": (DDPM(), samplers.ddim),
    "ddpm": (DDPM(), samplers.ddpm),
    "dpmpp_2m": (VP(), samplers.dpmpp_2m),
    "heun": (EDM(), edm_samplers.heun),
    "euler": (Flow(), flow_samplers.euler),
    "heun_flow": (Flow(), flow_samplers.heun_flow),
    "euler_maruyama": (Flow(), flow_samplers.euler_maruyama),
}


def estimate(weight, x, label):
    """Returns a denoiser's x0_hat, for NumPy and for JAX; it does not depend on the level."""
    return weight * (x + 0.4 * label) / (1 + x * x)


def network(y):
    return lambda x, level: estimate(0.9, x, 0 if y is None else y[:, None, None, None])


def guide(y):
    return lambda x, level: estimate(0.7, x, 0 if y is None else 0.5 * y[:, None, None, None])


def start():
    keys = image_keys(0, "test", jnp.arange(N))
    return image_noise(keys, SHAPE), keys


@pytest.mark.parametrize("name", SAMPLERS)
def test_scale_one_is_no_guidance_bit_for_bit(name):
    process, sampler = SAMPLERS[name]
    x, keys = start()
    one = Guidance(1.0, (0.1, 0.9), channels=2, autoguidance=1.0).denoiser(network, LABELS, guide)
    draw = lambda denoiser: jax.jit(lambda x: sampler(process, denoiser, x, keys, 6))(x)
    np.testing.assert_array_equal(draw(one), draw(network(LABELS)))
    two = Guidance(2.0, channels=2).denoiser(network, LABELS)
    assert np.abs(draw(two) - draw(one)).max() > 1e-3


def test_flow_guided_in_an_interval_on_some_channels():
    """The result is that of a loop over Euler's steps."""
    scale, low, high = 3.0, 0.25, 0.75
    denoiser = Guidance(scale, (low, high), channels=2).denoiser(network, LABELS)
    x, keys = start()
    ours = jax.jit(lambda x: flow_samplers.euler(Flow(), denoiser, x, keys, 8, clip=False))(x)
    x = np.asarray(x, np.float64)
    label = np.arange(N)[:, None, None, None]
    inside = 0
    for t in np.arange(8) / 8:
        x0 = estimate(0.9, x, label)
        if low <= t <= high:
            inside += 1
            base = estimate(0.9, x, 0)
            x0[..., :2] = base[..., :2] + scale * (x0[..., :2] - base[..., :2])
        x = x + (x0 - x) / (1 - t) / 8
    assert inside == 5  # Both ends are inside.
    np.testing.assert_allclose(ours, x, atol=1e-5)


def test_ddim_guided_in_an_interval():
    """The result is that of a loop over DDIM's steps; the interval is in whole time steps."""
    process = DDPM()
    scale, low, high = 2.5, 301, 701
    denoiser = Guidance(scale, (low, high)).denoiser(network, LABELS)
    x, keys = start()
    ours = jax.jit(lambda x: samplers.ddim(process, denoiser, x, keys, 10, clip=False))(x)
    x = np.asarray(x, np.float64)
    label = np.arange(N)[:, None, None, None]
    for t, s in itertools.pairwise((*range(901, 0, -100), 0)):
        x0, base = estimate(0.9, x, label), estimate(0.9, x, 0)
        x0 = base + scale * (x0 - base) if low <= t <= high else x0
        a_t, a_s = process.alpha_bar[t], process.alpha_bar[s]
        x = np.sqrt(a_s) * x0 + np.sqrt(1 - a_s) * (x - np.sqrt(a_t) * x0) / np.sqrt(1 - a_t)
    np.testing.assert_allclose(ours, x, atol=1e-5)


def test_unconditional_estimate_is_not_computed_outside_the_interval():
    conditional, unconditional = [], []

    def recording(y):
        times = unconditional if y is None else conditional

        def denoiser(x, level):
            jax.debug.callback(lambda level: times.append(float(level[0])), level)
            return network(y)(x, level)

        return denoiser

    denoiser = Guidance(3.0, (0.3, 0.6)).denoiser(recording, LABELS)
    x, keys = start()
    jax.block_until_ready(jax.jit(lambda x: flow_samplers.euler(Flow(), denoiser, x, keys, 10))(x))
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(conditional), np.arange(10) / 10, atol=1e-6)
    np.testing.assert_allclose(sorted(unconditional), [0.3, 0.4, 0.5, 0.6], atol=1e-6)


def test_each_image_has_its_own_level():
    x, _ = start()
    level = jnp.array([0.05, 0.5, 0.95])
    main, base = network(LABELS), network(None)
    x0 = guided(main, base, 3.0, (0.1, 0.9))(x, level)
    np.testing.assert_array_equal(x0[::2], main(x, level)[::2])
    np.testing.assert_allclose(x0[1], guided(main, base, 3.0)(x, level)[1], atol=1e-6)


def test_classifier_free_and_autoguidance_compose():
    """Both estimates are autoguided at every level, then classifier-free guidance applies."""
    x, _ = start()
    label = np.arange(N)[:, None, None, None]
    cfg, auto = 2.5, 1.75
    for t, inside in ((0.5, True), (0.95, False)):
        level = jnp.full(N, t)
        x0 = Guidance(cfg, (0.1, 0.9), 4, auto).denoiser(network, LABELS, guide)(x, level)
        conditional, unconditional = (
            estimate(0.7, x, 0.5 * y) + auto * (estimate(0.9, x, y) - estimate(0.7, x, 0.5 * y))
            for y in (label, np.zeros_like(label))
        )
        expected = np.array(conditional)
        if inside:
            moved = unconditional + cfg * (conditional - unconditional)
            expected[..., :4] = moved[..., :4]
        np.testing.assert_allclose(x0, expected, atol=1e-5)
    without_labels = Guidance(cfg, autoguidance=auto).denoiser(network, None, guide)
    np.testing.assert_allclose(without_labels(x, level), unconditional, atol=1e-5)


def test_formula():
    main, base = (lambda x, level: 2 * x), (lambda x, level: x + 1)
    x, level = jnp.arange(6.0).reshape(1, 1, 2, 3), jnp.array([5])
    assert guided(main, base, 1.0) is main
    np.testing.assert_allclose(guided(main, base, 0.0)(x, level), x + 1)
    np.testing.assert_allclose(guided(main, base, 3.0)(x, level), (x + 1) + 3 * (x - 1))


@pytest.mark.parametrize(
    "interval", [(0.5,), (0.5, 0.1), (0.5, 0.5), (0.1, float("nan")), ("a", "b"), (0.1, 0.2, 0.3)]
)
def test_impossible_intervals_are_refused(interval):
    with pytest.raises(ValueError, match=r"interval: .*rising"):
        Guidance(2.0, interval)


def test_impossible_channels_are_refused():
    with pytest.raises(ValueError, match="channels: -1 "):
        Guidance(2.0, channels=-1)
