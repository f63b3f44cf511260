"""The public door: features and samples are functions of (seed, image), in any batches. On devices:
tests/parallel.
"""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.errors import expect_error
from helpers.pixels import check_pixels_equal

import ddaepp_jax
from ddaepp_jax.data.datasets import digits
from ddaepp_jax.diffusion.noise import image_keys, image_noise
from ddaepp_jax.diffusion.samplers.variance_preserving import ddim


@pytest.mark.smoke
def test_samples_do_not_depend_on_batches_or_offsets(run):
    whole = run.sample(n=60, seed=1, steps=5, batch_size=60)
    assert whole.shape == (60, 8, 8, 1) and whole.std() > 10
    check_pixels_equal(whole, run.sample(n=60, seed=1, steps=5, batch_size=8))
    labels = np.arange(7, 60) % 10
    check_pixels_equal(whole[7:], run.sample(n=53, seed=1, steps=5, first=7, labels=labels))
    assert (whole != run.sample(n=60, seed=2, steps=5)).mean() > 0.5


def test_labels_and_guidance(run):
    three = run.sample(n=8, labels=3, steps=5)
    np.testing.assert_array_equal(three, run.sample(n=8, labels=[3] * 8, steps=5))
    assert (three != run.sample(n=8, labels=4, steps=5)).any()
    np.testing.assert_array_equal(three, run.sample(n=8, labels=3, steps=5, guidance=1.0))
    assert (three != run.sample(n=8, labels=3, steps=5, guidance=4.0)).any()


@pytest.mark.parametrize("interval", [pytest.param((), marks=pytest.mark.slow), (200, 700)])
def test_guidance_by_a_worse_run(conditional, run, interval):
    """Against the formula: each of the two denoisers is autoguided, then the one taken away from
    the other.
    """
    guide, labels = ddaepp_jax.load(conditional, step=24, decay=0.5), jnp.arange(12) % 10

    def estimate(which, x, level, y):
        network = lambda x, t: which.module.apply({"params": which.params}, x, t, y)[0]
        return which.process.denoised(network, x, level)

    def expected(x, level):
        given, none = (
            estimate(guide, x, level, y)
            + 1.5 * (estimate(run, x, level, y) - estimate(guide, x, level, y))
            for y in (labels, None)
        )
        inside = not interval or (interval[0] <= level[0]) & (level[0] <= interval[1])
        return jnp.where(inside, none + 2.0 * (given - none), given)

    keys = image_keys(3, "sample", jnp.arange(12))
    images = jax.jit(lambda x: ddim(run.process, expected, x, keys, 5))(
        image_noise(keys, run.image_shape)
    )
    draw = lambda **more: run.sample(
        n=12, seed=3, sampler="ddim", steps=5, guidance=2.0, guidance_interval=interval, **more
    )
    ours = draw(autoguidance=1.5, guide=guide)
    levels = np.clip((np.asarray(images) + 1) * 127.5, 0, 255)  # before they are rounded to uint8
    np.testing.assert_allclose(ours, levels, rtol=0, atol=0.5 + 1e-3)
    assert (ours != draw()).mean() > 0.05
    np.testing.assert_array_equal(
        ours, draw(autoguidance=1.5, guide=guide, guidance_channels=1)
    )  # all there are


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("sampler", ["ddim", pytest.param("ddpm", marks=pytest.mark.slow)])
def test_a_trajectory_leads_to_the_samples(run, sampler, guidance):
    """DDIM's last step, to no noise, returns its estimate; and so does DDPM's."""
    drawn = dict(n=40, seed=2**32 - 1, sampler=sampler, steps=6, guidance=guidance)
    levels, estimates = run.trajectory(**drawn)
    assert estimates.shape == (6, 40, 8, 8, 1) and estimates.dtype == np.uint8
    np.testing.assert_array_equal(levels, run.process.grid(6)[:-1])
    check_pixels_equal(estimates[-1], run.sample(**drawn))
    assert [(estimates[0] != later).any() for later in estimates] == [False] + 5 * [True]


def test_the_first_estimate_of_a_trajectory_is_that_of_pure_noise(conditional, run):
    """Against the formula, with a guide."""
    guide, labels = ddaepp_jax.load(conditional, step=24, decay=0.5), jnp.arange(3)
    _, estimates = run.trajectory(n=3, seed=3, steps=2, guide=guide, autoguidance=1.5)
    noise = image_noise(image_keys(3, "sample", labels), run.image_shape)
    level = jnp.full(3, run.process.grid(2)[0])

    def estimate(which):
        network = lambda x, t: which.module.apply({"params": which.params}, x, t, labels)[0]
        return which.process.denoised(network, noise, level)

    expected = estimate(guide) + 1.5 * (estimate(run) - estimate(guide))
    levels = np.clip((np.asarray(expected) + 1) * 127.5, 0, 255)
    np.testing.assert_allclose(estimates[0], levels, rtol=0, atol=0.5 + 1e-2)


def test_a_trajectory_refuses_what_sampling_refuses(run):
    for field, arguments in (
        ("n", dict(n=0)),
        ("labels", dict(labels=10)),
        ("sampler", dict(sampler="heun")),
        ("guidance", dict(guidance=float("inf"))),
    ):
        with expect_error(field):
            run.trajectory(**arguments)
    run = copy.copy(run)
    run.params = jax.tree.map(lambda leaf: leaf * np.nan, run.params)
    with expect_error("sampler", "ddpm"):
        run.trajectory(n=1, steps=2, sampler="ddpm")


def test_features_are_what_they_say(run):
    """Against the definition, image by image: noise of (seed, image), one forward pass, a mean over
    tokens.
    """
    images = digits("test").batch(np.arange(5))["image"]
    features = run.features(
        images, noise_level=21, layers=["out_1", "bottleneck"], seed=4, batch_size=2
    )
    noise = image_noise(
        jax.vmap(jax.random.fold_in, (0, None))(image_keys(4, "features", jnp.arange(5)), 0),
        (8, 8, 1),
    )
    for i in range(5):
        x0 = jnp.asarray(images[i : i + 1], jnp.float32) / 127.5 - 1
        a = run.process.alpha_bar[21]
        x_t = np.sqrt(a) * x0 + np.sqrt(1 - a) * noise[i : i + 1]
        _, expected = run.module.apply(
            {"params": run.params}, x_t.astype(jnp.float32), jnp.array([999 * 21 / 1000])
        )
        np.testing.assert_allclose(features["out_1"][i], expected["out_1"][0].mean(0), atol=2e-5)
        np.testing.assert_allclose(features["bottleneck"][i], expected["bottleneck"][0], atol=2e-5)


def test_features_of_several_draws_are_averaged(run):
    images = digits("test").batch(np.arange(11))["image"]
    double = run.features(images, noise_level=11, layers=run.layers, draws=2)
    assert tuple(double) == run.layers == ("in_1", "mid", "out_1", "bottleneck")
    for layer in run.layers:
        assert double[layer].shape == (11, 32) and double[layer].dtype == np.float32
    single = run.features(images, noise_level=11, layers=["mid"])["mid"]
    assert 0 < np.abs(single - double["mid"]).max() < np.abs(single).max()
    assert np.abs(run.features(images, noise_level=500, layers=["mid"])["mid"] - single).max() > 0.1


def test_checkpoints_and_averages_can_be_chosen(conditional, run):
    other, early = ddaepp_jax.load(conditional, decay=0.5), ddaepp_jax.load(conditional, step=24)
    saved = run.state()
    assert int(saved.step) == run.step == 32 and early.step == 24
    for opened, tree in [(run, saved.ema["0.9"]), (other, saved.ema["0.5"])]:
        jax.tree.map(
            lambda a, b: np.testing.assert_array_equal(a, b), opened.params, tree["network"]
        )
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), run.params, early.params)
    assert max(jax.tree.leaves(moved)) > 1e-4
    assert set(saved.params) == {"network", "objectives"} and run.config.model.name == "uvit"


def test_what_an_opened_run_says_of_itself(run, conditional):
    count = sum(leaf.size for leaf in jax.tree.leaves(run.params))
    assert repr(run) == (
        f"Run('{conditional}', step 32, ema0.9, images of 8x8x1, {count:,} parameters)"
    )
    assert {"load", "Run", "__version__"} <= set(dir(ddaepp_jax))
