"""Computations on eight devices give the numbers of one device, and move no more between devices
than they have to.
"""

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
    """The placement of a batch over eight devices."""
    return NamedSharding(make_mesh((8, 1, 1)), PartitionSpec("data"))


@pytest.mark.parametrize(
    "augment",
    [
        lambda images, index: geometric.augment(images, 0, 0, index, 0.5)[0],
        lambda images, index: photometric.augment(images, EVERYTHING, 0, 0, index, 0),
    ],
    ids=["geometric", "photometric"],
)
def test_augmentations_are_those_of_one_device_and_send_nothing(augment):
    images = (
        np.random.default_rng(0).integers(0, 256, (16, 8, 12, 3)).astype(np.float32) / 127.5 - 1
    )
    index, split = np.arange(16), split_over_all()
    augment, sharded = jax.jit(augment), jax.device_put((images, index), split)
    compiled = augment.lower(*sharded).compile().as_text()
    assert not any(word in compiled for word in COLLECTIVES)
    eight = augment(*sharded)
    assert eight.sharding.is_equivalent_to(split, 4)
    np.testing.assert_allclose(eight, augment(images, index), atol=1e-5)


def test_start_noise_is_bitwise_that_of_one_device():
    draw = jax.jit(lambda ids: image_noise(image_keys(3, "sample", ids), (9, 7, 3)))
    split = draw(jax.device_put(jnp.arange(16), split_over_all()))
    np.testing.assert_array_equal(np.asarray(split), np.asarray(draw(jnp.arange(16))))


@pytest.mark.parametrize(("n", "batch_size"), [(1, 64), (8, 8), (21, 8), (21, 5), (100, 64)])
def test_every_row_counts_once_in_batches_of_one_shape(n, batch_size):
    made = list(parallel.batches(n, batch_size, make_mesh((8, 1, 1))))
    np.testing.assert_array_equal(
        np.concatenate([rows[:count] for rows, count in made]), np.arange(n)
    )
    assert len({rows.shape for rows, _ in made}) == 1 and made[0][0].size % 8 == 0
    assert all(rows.max() < n for rows, _ in made)


def distance(ours, theirs):
    """The largest difference between two trees of parameters."""
    apart = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), ours, theirs)
    return max(jax.tree.leaves(apart))


@pytest.mark.slow
def test_a_classifier_is_trained_as_on_one_device(tmp_path):
    """Batches of 60 images do not divide by eight: the padding has no part in the mean, nor in the
    accuracy.
    """
    recipe, test = Recipe(depth=10, width=1, stride=1, batch_size=60, images=600), digits("test")
    trained = {}
    for devices in (1, 8):
        mesh, saved = first_devices(devices), tmp_path / str(devices)
        trained[devices] = classifier.train(
            digits("train"), recipe, flip=False, seed=0, mesh=mesh, saved=saved
        )
    (module, one), (_, many) = trained.values()
    assert distance(one, many) < 1e-4
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
    found = {}
    for devices in (8, 1):
        mesh = first_devices(devices)
        evaluation = evaluations(config(), mesh)["features"]
        found[devices] = evaluation.measure(state(untrained(config(), mesh)))
    names = ("alignment", "uniformity", "effective_rank", "spread")
    assert list(found[1]) == [f"ema0.999/bottleneck/t11/{name}" for name in names]
    for name, value in found[1].items():
        assert math.isfinite(value) and found[8][name] == pytest.approx(value, rel=1e-5)
    assert (
        0 < found[1]["ema0.999/bottleneck/t11/alignment"] < 2
        and "collapsed" not in capsys.readouterr().out
    )


class Pulled(nn.Module):
    """The velocity from anywhere to the parameter ``to`` plus a tenth of the label."""

    @nn.compact
    def __call__(self, x, t, y=None, capture=None):
        target = self.param("to", nn.initializers.zeros, ()) + (
            0 if y is None else y[:, None, None, None] / 10
        )
        return (target - x) / (1 - t)[:, None, None, None], {}


def test_an_uneven_batch_of_samples_is_padded_and_counted_once():
    mesh, labels = make_mesh((-1, 1, 1)), np.arange(5)
    sample_batch = make_sample_batch(
        Pulled(), Flow(), Sampling("euler", 6, guidance=1.5), image_shape=(4, 2, 3), mesh=mesh
    )
    params = {"to": jnp.float32(-0.2)}
    made = np.concatenate(
        list(sample_images(sample_batch, params, 0, np.arange(5), labels, 8, mesh, None))
    )
    assert made.shape == (5, 4, 2, 3)
    expected = np.round(127.5 * (1 - 0.2 + 1.5 * labels / 10))
    assert np.abs(made - expected[:, None, None, None]).max() <= 1


def test_the_keys_of_all_devices_are_negatives():
    """Each device has its own queries and everybody's keys, and no device has the whole matrix of
    logits.
    """
    placed = NamedSharding(parallel.make_mesh((4, 2, 1)), parallel.BATCH)
    shape = jax.ShapeDtypeStruct((64, 12), jnp.float32, sharding=placed)
    for function in (
        contrastive_loss,
        jax.grad(lambda q, k, tau: contrastive_loss(q, k, tau)[0], argnums=(0, 1)),
    ):
        text = (
            jax.jit(lambda q, k, f=function: f(q, k, 0.2)).lower(shape, shape).compile().as_text()
        )
        assert "f32[8,64]" in text and "f32[64,64]" not in text and "all-gather" in text


def test_negatives_do_not_depend_on_the_devices():
    rng = np.random.default_rng(0)
    queries, keys = rng.standard_normal((2, 64, 12)).astype(np.float32)
    placed = NamedSharding(parallel.make_mesh((4, 2, 1)), parallel.BATCH)
    loss = jax.jit(lambda q, k: contrastive_loss(q, k, 0.2))
    split = jax.device_put((queries, keys), placed)
    np.testing.assert_allclose(loss(*split), loss(queries, keys), rtol=1e-6)
