"""Guidance against its formula, written out step by step in NumPy, and what it does not compute."""

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


def estimate(weight, x, known):
    """A denoiser's function, of NumPy and of JAX: no level in it."""
    return weight * (x + 0.4 * known) / (1 + x * x)


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
    none = Guidance(1.0, (0.1, 0.9), channels=2, autoguidance=1.0).denoiser(network, LABELS, guide)
    draw = lambda denoiser: jax.jit(lambda x: sampler(process, denoiser, x, keys, 6))(x)
    np.testing.assert_array_equal(draw(none), draw(network(LABELS)))
    more = Guidance(2.0, channels=2).denoiser(network, LABELS)
    assert np.abs(draw(more) - draw(none)).max() > 1e-3


def test_a_flow_guided_in_an_interval_on_some_channels():
    """Against a loop over Euler's steps."""
    scale, low, high = 3.0, 0.25, 0.75
    made = Guidance(scale, (low, high), channels=2).denoiser(network, LABELS)
    x, keys = start()
    ours = jax.jit(lambda x: flow_samplers.euler(Flow(), made, x, keys, 8, clip=False))(x)
    x, known = np.asarray(x, np.float64), np.arange(N)[:, None, None, None]
    inside = 0
    for t in np.arange(8) / 8:
        x0 = estimate(0.9, x, known)
        if low <= t <= high:
            inside += 1
            base = estimate(0.9, x, 0)
            x0[..., :2] = base[..., :2] + scale * (x0[..., :2] - base[..., :2])
        x = x + (x0 - x) / (1 - t) / 8
    assert inside == 5  # both ends are inside
    np.testing.assert_allclose(ours, x, atol=1e-5)


def test_ddim_guided_in_an_interval():
    """The same of a process in whole steps."""
    process, scale, low, high = DDPM(), 2.5, 301, 701
    made = Guidance(scale, (low, high)).denoiser(network, LABELS)
    x, keys = start()
    ours = jax.jit(lambda x: samplers.ddim(process, made, x, keys, 10, clip=False))(x)
    x, known = np.asarray(x, np.float64), np.arange(N)[:, None, None, None]
    for t, s in itertools.pairwise((*range(901, 0, -100), 0)):
        x0, base = estimate(0.9, x, known), estimate(0.9, x, 0)
        x0 = base + scale * (x0 - base) if low <= t <= high else x0
        a_t, a_s = process.alpha_bar[t], process.alpha_bar[s]
        x = np.sqrt(a_s) * x0 + np.sqrt(1 - a_s) * (x - np.sqrt(a_t) * x0) / np.sqrt(1 - a_t)
    np.testing.assert_allclose(ours, x, atol=1e-5)


def test_outside_the_interval_the_unconditional_is_not_computed():
    seen = []

    def counted(y):
        def denoiser(x, level):
            jax.debug.callback(lambda level: seen.append((y is not None, float(level[0]))), level)
            return network(y)(x, level)

        return denoiser

    made = Guidance(3.0, (0.3, 0.6)).denoiser(counted, LABELS)
    x, keys = start()
    jax.block_until_ready(jax.jit(lambda x: flow_samplers.euler(Flow(), made, x, keys, 10))(x))
    jax.effects_barrier()
    np.testing.assert_allclose(
        sorted(t for known, t in seen if known), np.arange(10) / 10, atol=1e-6
    )
    np.testing.assert_allclose(
        sorted(t for known, t in seen if not known), [0.3, 0.4, 0.5, 0.6], atol=1e-6
    )


def test_each_image_has_its_own_level():
    x, _ = start()
    level = jnp.array([0.05, 0.5, 0.95])
    one, other = network(LABELS), network(None)
    made = guided(one, other, 3.0, (0.1, 0.9))(x, level)
    np.testing.assert_array_equal(made[::2], one(x, level)[::2])
    np.testing.assert_allclose(made[1], guided(one, other, 3.0)(x, level)[1], atol=1e-6)


def test_classifier_free_and_autoguidance_compose():
    """Each of the two denoisers is autoguided first, everywhere; then the one is taken away from
    the other.
    """
    x, _ = start()
    known = np.arange(N)[:, None, None, None]
    cfg, auto = 2.5, 1.75
    for t, inside in ((0.5, True), (0.95, False)):
        level = jnp.full(N, t)
        made = Guidance(cfg, (0.1, 0.9), 4, auto).denoiser(network, LABELS, guide)(x, level)
        given, none = (
            estimate(0.7, x, 0.5 * y) + auto * (estimate(0.9, x, y) - estimate(0.7, x, 0.5 * y))
            for y in (known, np.zeros_like(known))
        )
        expected = np.array(none + cfg * (given - none)) if inside else np.array(given)
        expected[..., 4:] = given[..., 4:]
        np.testing.assert_allclose(made, expected, atol=1e-5)
    alone = Guidance(cfg, autoguidance=auto).denoiser(network, None, guide)(
        x, level
    )  # a network without labels
    np.testing.assert_allclose(alone, none, atol=1e-5)


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
