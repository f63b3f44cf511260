"""The public door: features and samples are functions of (seed, image), on any devices, in any batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import config

import ddaepp_jax
from ddaepp_jax import main
from ddaepp_jax.data.datasets import digits
from ddaepp_jax.diffusion.noise import image_keys, image_noise
from ddaepp_jax.diffusion.samplers import ddim


@pytest.fixture(scope="module", autouse=True)
def compiled_as_users_do():
    """Pixels are compared: the quick tests' cheaper compilation rounds otherwise."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A conditional run, trained enough for its layers not to be trivial."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    made = config(train__steps=30, train__checkpoint_every=15, model__class_conditional=True, ema__decays=(0.9, 0.5))
    made.evals.samples.every = made.evals.heldout_loss.every = 0
    made.optimizer.learning_rate = 1e-2
    main.train_and_evaluate(made, workdir)
    return workdir


@pytest.fixture(scope="module")
def run(workdir):
    return ddaepp_jax.load(workdir)


@pytest.fixture
def one_device_run(workdir, monkeypatch):
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: first)
    return ddaepp_jax.load(workdir)


def check_pixels_equal(one, other):
    """Within a level, and 99.9 % equal: a forward pass is rounded differently in different batches.

    A pixel's value is 1e-4 of a level off, so one in 30,000 falls on the other side of a half: images enough, that one
    or two are not yet one in a thousand.
    """
    assert one.size >= 2000
    assert one.dtype == other.dtype == np.uint8
    assert np.abs(one.astype(int) - other).max() <= 1 and (one == other).mean() >= 0.999


def test_samples_do_not_depend_on_batches_or_offsets(run):
    whole = run.sample(n=60, seed=1, steps=5, batch_size=60)
    assert whole.shape == (60, 8, 8, 1) and whole.std() > 10
    check_pixels_equal(whole, run.sample(n=60, seed=1, steps=5, batch_size=8))
    labels = np.arange(7, 60) % 10
    check_pixels_equal(whole[7:], run.sample(n=53, seed=1, steps=5, first=7, labels=labels))
    assert (whole != run.sample(n=60, seed=2, steps=5)).mean() > 0.5


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp_2m"])
def test_samples_do_not_depend_on_devices(run, one_device_run, sampler):
    assert run.mesh.size == 8 and one_device_run.mesh.size == 1
    one, eight = (r.sample(n=60, steps=5, sampler=sampler, guidance=2.0) for r in (one_device_run, run))
    check_pixels_equal(one, eight)


def test_labels_and_guidance(run):
    three = run.sample(n=8, labels=3, steps=5)
    np.testing.assert_array_equal(three, run.sample(n=8, labels=[3] * 8, steps=5))
    assert (three != run.sample(n=8, labels=4, steps=5)).any()
    np.testing.assert_array_equal(three, run.sample(n=8, labels=3, steps=5, guidance=1.0))
    assert (three != run.sample(n=8, labels=3, steps=5, guidance=4.0)).any()


@pytest.mark.parametrize("interval", [(), (200, 700)])
def test_guidance_by_a_worse_run(workdir, run, interval):
    """Against the formula: each of the two denoisers is autoguided, then the one taken away from the other."""
    guide, labels = ddaepp_jax.load(workdir, step=15, decay=0.5), jnp.arange(12) % 10

    def estimate(which, x, level, y):
        network = lambda x, t: which.module.apply({"params": which.params}, x, t, y)[0]
        return which.process.denoised(network, x, level)

    def expected(x, level):
        given, none = (
            estimate(guide, x, level, y) + 1.5 * (estimate(run, x, level, y) - estimate(guide, x, level, y))
            for y in (labels, None)
        )
        inside = not interval or (interval[0] <= level[0]) & (level[0] <= interval[1])
        return jnp.where(inside, none + 2.0 * (given - none), given)

    keys = image_keys(3, "sample", jnp.arange(12))
    images = jax.jit(lambda x: ddim(run.process, expected, x, keys, 5))(image_noise(keys, run.image_shape))
    draw = lambda **more: run.sample(
        n=12, seed=3, sampler="ddim", steps=5, guidance=2.0, guidance_interval=interval, **more
    )
    ours = draw(autoguidance=1.5, guide=guide)
    levels = np.clip((np.asarray(images) + 1) * 127.5, 0, 255)  # before they are rounded to uint8
    np.testing.assert_allclose(ours, levels, rtol=0, atol=0.5 + 1e-3)
    assert (ours != draw()).mean() > 0.05
    np.testing.assert_array_equal(ours, draw(autoguidance=1.5, guide=guide, guidance_channels=1))  # all there are


def test_features_are_what_they_say(run):
    """Against the definition, image by image: noise of (seed, image), one forward pass, a mean over tokens."""
    images = digits("test").batch(np.arange(5))["image"]
    features = run.features(images, noise_level=21, layers=["out_1", "bottleneck"], seed=4, batch_size=2)
    noise = image_noise(jax.vmap(jax.random.fold_in, (0, None))(image_keys(4, "features", jnp.arange(5)), 0), (8, 8, 1))
    for i in range(5):
        x0 = jnp.asarray(images[i : i + 1], jnp.float32) / 127.5 - 1
        a = run.process.alpha_bar[21]
        x_t = np.sqrt(a) * x0 + np.sqrt(1 - a) * noise[i : i + 1]
        _, expected = run.module.apply({"params": run.params}, x_t.astype(jnp.float32), jnp.array([999 * 21 / 1000]))
        np.testing.assert_allclose(features["out_1"][i], expected["out_1"][0].mean(0), atol=2e-5)
        np.testing.assert_allclose(features["bottleneck"][i], expected["bottleneck"][0], atol=2e-5)


def test_features_do_not_depend_on_devices_and_draws_average(run, one_device_run):
    images = digits("test").batch(np.arange(11))["image"]
    eight = run.features(images, noise_level=11, layers=run.layers, draws=2)
    one = one_device_run.features(images, noise_level=11, layers=run.layers, draws=2)
    assert tuple(eight) == run.layers == ("in_1", "mid", "out_1", "bottleneck")
    for layer in run.layers:
        assert eight[layer].shape == (11, 32) and eight[layer].dtype == np.float32
        np.testing.assert_allclose(eight[layer], one[layer], atol=2e-5)
    single = run.features(images, noise_level=11, layers=["mid"])["mid"]
    assert 0 < np.abs(single - eight["mid"]).max() < np.abs(single).max()
    assert np.abs(run.features(images, noise_level=500, layers=["mid"])["mid"] - single).max() > 0.1


def test_checkpoints_and_averages_can_be_chosen(workdir, run):
    other, early = ddaepp_jax.load(workdir, decay=0.5), ddaepp_jax.load(workdir, step=15)
    saved = run.state()
    assert int(saved.step) == run.step == 30 and early.step == 15
    for opened, tree in [(run, saved.ema["0.9"]), (other, saved.ema["0.5"])]:
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), opened.params, tree["network"])
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), run.params, early.params)
    assert max(jax.tree.leaves(moved)) > 1e-4
    assert set(saved.params) == {"network", "objectives"} and run.config.model.name == "uvit"
