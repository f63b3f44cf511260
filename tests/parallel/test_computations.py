"""Computations on eight devices give one device's numbers and communicate no more than needed."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers.evaluations import evaluations, state, untrained
from helpers.run import config
from jax.sharding import NamedSharding, PartitionSpec

from ddaepp_jax.base import parallel
from ddaepp_jax.base.parallel import make_mesh
from ddaepp_jax.data import geometric, photometric
from ddaepp_jax.data.datasets import digits
from ddaepp_jax.data.photometric import Photometric
from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.diffusion.flow import Flow
from ddaepp_jax.diffusion.noise import image_keys, image_noise
from ddaepp_jax.objectives.distillation import contrastive_loss
from ddaepp_jax.sampling.draw import make_sample_batch, sample_images
from ddaepp_jax.sampling.settings import Sampling
from ddaepp_jax.scoring import classifier
from ddaepp_jax.scoring.classifier import Recipe
from ddaepp_jax.training.heldout_loss import make_heldout_loss

EVERYTHING = Photometric(jitter=1, blur=(1, 1), solarise=(0.5, 0.5))
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute")


def first_devices(count):
    return make_mesh((count, 1, 1), jax.devices()[:count])


def split_over_all():
    """Returns the sharding of a batch over eight devices."""
    return NamedSharding(make_mesh((8, 1, 1)), PartitionSpec("data"))


@pytest.mark.parametrize(
    "augment",
    [
        lambda images, index: geometric.augment(images, 0, 0, index, 0.5)[0],
        lambda images, index: photometric.augment(images, EVERYTHING, 0, 0, index, 0),
    ],
    ids=["geometric", "photometric"],
)
def test_augmentations_are_those_of_one_device_without_communication(augment):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 8, 12, 3))
    images = pixels.astype(np.float32) / 127.5 - 1
    index = np.arange(16)
    split = split_over_all()
    augment = jax.jit(augment)
    sharded = jax.device_put((images, index), split)
    program = augment.lower(*sharded).compile().as_text()
    assert not any(collective in program for collective in COLLECTIVES)
    eight = augment(*sharded)
    assert eight.sharding.is_equivalent_to(split, 4)
    np.testing.assert_allclose(eight, augment(images, index), atol=1e-5)


def test_start_noise_is_bitwise_that_of_one_device():
    draw = jax.jit(lambda ids: image_noise(image_keys(3, "sample", ids), (9, 7, 3)))
    split = draw(jax.device_put(jnp.arange(16), split_over_all()))
    np.testing.assert_array_equal(np.asarray(split), np.asarray(draw(jnp.arange(16))))


@pytest.mark.parametrize(("n", "batch_size"), [(1, 64), (8, 8), (21, 8), (21, 5), (100, 64)])
def test_every_row_counts_once_in_batches_of_one_shape(n, batch_size):
    batches = list(parallel.batches(n, batch_size, make_mesh((8, 1, 1))))
    counted = np.concatenate([rows[:count] for rows, count in batches])
    np.testing.assert_array_equal(counted, np.arange(n))
    (shape,) = {rows.shape for rows, _ in batches}
    assert shape[0] % 8 == 0
    assert all(rows.max() < n for rows, _ in batches)


def distance(ours, theirs):
    """Returns the largest difference between two trees of parameters."""
    apart = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), ours, theirs)
    return max(jax.tree.leaves(apart))


@pytest.mark.slow
def test_classifier_is_trained_as_on_one_device(tmp_path):
    """60 images do not divide by eight: the padding counts neither in the loss nor in accuracy."""
    recipe = Recipe(depth=10, width=1, stride=1, batch_size=60, images=600)
    test = digits("test")
    trained = {}
    for devices in (1, 8):
        mesh, saved = first_devices(devices), tmp_path / str(devices)
        trained[devices] = classifier.train(
            digits("train"), recipe, flip=False, seed=0, mesh=mesh, saved=saved
        )
    (module, one), (_, eight) = trained.values()
    assert distance(one, eight) < 1e-4
    start = jax.jit(module.init)(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))["params"]
    assert distance(one, start) > 1e-2
    accuracies = [
        classifier.accuracy(module, one, test, batch_size=size, mesh=first_devices(devices))
        for devices, size in ((1, 128), (8, 50))
    ]
    assert accuracies[0] == accuracies[1] > 15


class Scaled(nn.Module):
    """A network whose output is its input times its parameter."""

    @nn.compact
    def __call__(self, x, t, y=None, capture=None):
        return self.param("scale", nn.initializers.ones, ()) * x, {}


def test_heldout_loss_is_that_of_one_device():
    images = np.random.default_rng(0).integers(0, 256, (301, 6, 4, 3), np.uint8)
    one, eight = (
        make_heldout_loss(
            Scaled(),
            DDPM(),
            images,
            None,
            levels=[1, 400],
            seed=0,
            batch_size=64,
            mesh=first_devices(count),
        )({"scale": jnp.asarray(0.5)})
        for count in (1, 8)
    )
    assert list(eight) == list(one) == ["t0001", "t0400", "mean"]
    for name, loss in one.items():
        assert eight[name] == pytest.approx(loss, rel=1e-6)


def test_features_are_diagnosed_as_on_one_device(capsys):
    values = {}
    for devices in (8, 1):
        mesh = first_devices(devices)
        evaluation = evaluations(config(), mesh)["features"]
        values[devices] = evaluation.measure(state(untrained(config(), mesh)))
    names = ("alignment", "uniformity", "effective_rank", "spread")
    assert list(values[1]) == [f"ema0.999/bottleneck/t11/{name}" for name in names]
    for name, value in values[1].items():
        assert math.isfinite(value) and values[8][name] == pytest.approx(value, rel=1e-5)
    assert 0 < values[1]["ema0.999/bottleneck/t11/alignment"] < 2
    assert "collapsed" not in capsys.readouterr().out


class Pulled(nn.Module):
    """A velocity that leads from anywhere to the parameter ``to`` plus a tenth of the label."""

    @nn.compact
    def __call__(self, x, t, y=None, capture=None):
        target = self.param("to", nn.initializers.zeros, ())
        if y is not None:
            target = target + y[:, None, None, None] / 10
        return (target - x) / (1 - t)[:, None, None, None], {}


def test_uneven_batch_of_samples_is_padded_and_counted_once():
    mesh = make_mesh((-1, 1, 1))
    labels = np.arange(5)
    sample_batch = make_sample_batch(
        Pulled(), Flow(), Sampling("euler", 6, guidance=1.5), image_shape=(4, 2, 3), mesh=mesh
    )
    params = {"to": jnp.float32(-0.2)}
    pieces = sample_images(sample_batch, params, 0, np.arange(5), labels, 8, mesh, None)
    images = np.concatenate([piece for piece, _ in pieces])
    assert images.shape == (5, 4, 2, 3)
    expected = np.round(127.5 * (1 - 0.2 + 1.5 * labels / 10))
    assert np.abs(images - expected[:, None, None, None]).max() <= 1


def test_the_keys_of_all_devices_are_negatives():
    """Each device has its own queries and all keys; none has the whole matrix of logits."""
    placed = NamedSharding(parallel.make_mesh((4, 2, 1)), parallel.BATCH)
    shape = jax.ShapeDtypeStruct((64, 12), jnp.float32, sharding=placed)
    gradient = jax.grad(lambda q, k, tau: contrastive_loss(q, k, tau)[0], argnums=(0, 1))
    for function in (contrastive_loss, gradient):
        jitted = jax.jit(lambda q, k, f=function: f(q, k, 0.2))
        program = jitted.lower(shape, shape).compile().as_text()
        assert "all-gather" in program
        assert "f32[8,64]" in program and "f32[64,64]" not in program


def test_contrastive_loss_does_not_depend_on_the_devices():
    rng = np.random.default_rng(0)
    queries, keys = rng.standard_normal((2, 64, 12)).astype(np.float32)
    placed = NamedSharding(parallel.make_mesh((4, 2, 1)), parallel.BATCH)
    loss = jax.jit(lambda q, k: contrastive_loss(q, k, 0.2))
    split = jax.device_put((queries, keys), placed)
    np.testing.assert_allclose(loss(*split), loss(queries, keys), rtol=1e-6)
