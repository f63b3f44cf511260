"""Dry runs for slices that are not present: their errors, the data they assume, and the cost."""

from types import SimpleNamespace

import numpy as np
import pytest
from helpers.errors import expect_error
from helpers.run import config

from ddaepp_jax import config as schema
from ddaepp_jax import main
from ddaepp_jax.config import recipes
from ddaepp_jax.run import absent


def imagenet(**data):
    made = schema.get_config()
    made.data.update(name="latents", **data)
    return made


def test_a_slice_that_does_not_exist():
    """Without libtpu, no slice can be compiled for."""
    with expect_error("--topology: cannot compile for 'v5e:nothing'", "v5e:4x4", "libtpu"):
        absent.dry_run(config(), "v5e:nothing")


def test_nothing_is_trained_there():
    with expect_error("--topology:", "--dry_run"):
        main.main(["--topology=v5e:2x2"])


@pytest.mark.parametrize(("name", "shape"), [("va-vae", (16, 16, 32)), ("sd-vae", (32, 32, 4))])
def test_imagenets_latents_are_assumed(name, shape, capsys):
    data = absent._data(imagenet(autoencoder=name))
    assert (data.image_shape, len(data), data.num_classes) == (shape, 1_281_167, 1000)
    # The means and log-variances of both mirrorings, as float16.
    assert data.nbytes == 1_281_167 * np.prod(shape) * 4 * 2
    assert "ImageNet" in capsys.readouterr().out
    with expect_error("data.data_dir: empty", "mine"):
        absent._data(imagenet(autoencoder="mine"))


def test_the_cost_in_chip_hours():
    """100 steps of 7.092e16 FLOPs take 100 * 900 s at 40 % of a v5e's 197 TFLOP/s."""
    mesh = SimpleNamespace(devices=np.array([SimpleNamespace(device_kind="TPU v5 lite")]), size=256)
    line = absent._cost(SimpleNamespace(flops=900 * 0.4 * 197e12), mesh, 100)
    assert line.startswith("cost: 6,400 chip-hours at 40%") and "25.0 hours of 256 chips" in line


def test_the_published_configs_name_an_autoencoder_that_is_known():
    for made in (recipes.lightningdit, recipes.dit):
        fields = {} if made is recipes.dit else dict(epochs=1, class_conditional=True)
        assert made(recipes.imagenet_latents(), **fields).data.autoencoder in absent.LATENTS
