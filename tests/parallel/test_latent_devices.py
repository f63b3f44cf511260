"""Latents on eight devices: encoding, and training from them."""

import jax
import numpy as np
import pytest
from helpers.run import NO_EVALS, config, train
from helpers.same import SGD, check_same

from ddaepp_jax import config as schema
from ddaepp_jax.autoencoders import stored
from ddaepp_jax.autoencoders.kl import AutoencoderKL
from ddaepp_jax.base import parallel
from ddaepp_jax.data import caching, datasets
from ddaepp_jax.data.encoding import Encoding
from ddaepp_jax.data.normalisation import Normalisation


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    """The directory of an untrained autoencoder, f = 2."""
    directory = tmp_path_factory.mktemp("autoencoder")
    module = AutoencoderKL(channels=8, widths=(8, 8), blocks=1, latent_channels=3, groups=4)
    params = jax.jit(module.init)(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))["params"]
    stored.save(directory, module, params, None, {})
    return directory


def on(directory, devices):
    return stored.load(str(directory), parallel.make_mesh((-1, 1, 1), jax.devices()[:devices]))


def test_images_are_encoded_and_decoded_as_on_one_device(autoencoder):
    images, _ = datasets.digits("test").gather(np.arange(37))
    moments = [on(autoencoder, devices).moments(images, 16) for devices in (1, 8)]
    assert moments[0].shape == (37, 4, 4, 6)
    np.testing.assert_allclose(moments[0], moments[1], atol=2e-5)
    pictures = [on(autoencoder, n).decode(moments[0][..., :3], 16).astype(int) for n in (1, 8)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


@pytest.mark.parametrize("device_bytes", [2**30, 0], ids=["resident", "streamed"])
def test_training_is_the_same(autoencoder, tmp_path, device_bytes):
    encoder = on(autoencoder, 8)
    job = caching.Job(
        data=datasets.digits("train"),
        encode=encoder.moments,
        encoding=Encoding((4, 4, 3), True, Normalisation((0.0,), (1.0,))),
        normalisation=None,
        batch_size=256,
        autoencoder={"name": str(autoencoder), "kind": "kl", "hash": encoder.hash},
        source={"name": "digits", "image_shape": [8, 8, 1]},
    )
    caching.cache(job, tmp_path / "train")
    made = config(**NO_EVALS | SGD | dict(data__name="latents", data__data_dir=str(tmp_path)))
    made.data.device_bytes = device_bytes
    made.model = schema.dit(width=32, depth=2, num_heads=2, patch_size=1, bottleneck="block_1")
    made.optimizer.weight_decay = 0.0
    check_same(train(made), train(made, (2, 4, 1)))
