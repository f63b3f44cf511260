"""Autoencoders in directories: the range of images, grey ones, tiles, and bad files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.errors import expect_error

from ddaepp_jax.autoencoders import stored, tiling
from ddaepp_jax.autoencoders.kl import AutoencoderKL
from ddaepp_jax.autoencoders.tiny import TinyAutoencoder
from ddaepp_jax.base import parallel
from ddaepp_jax.data.normalisation import Normalisation

KL = AutoencoderKL(channels=8, widths=(8, 8), blocks=1, latent_channels=3, groups=4)
TINY = TinyAutoencoder(latent_channels=4, width=8)


def params_of(module):
    images = np.zeros((1, module.factor, module.factor, 3), np.float32)
    return jax.jit(module.init)(jax.random.key(0), images)["params"]


def opened(directory, module, normalisation=None):
    stored.save(directory, module, params_of(module), normalisation, {"from": "test"})
    return stored.load(str(directory), parallel.make_mesh((1, 1, 1)))


@pytest.mark.parametrize(("module", "low"), [(KL, -1), (TINY, 0)], ids=["kl", "tiny"])
def test_images_have_the_range_of_the_reference(tmp_path, module, low):
    """TAESD's are in [0, 1], others in [-1, 1]."""
    autoencoder = opened(tmp_path / "ae", module)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3), np.uint8)
    x = jnp.asarray(low + (1 - low) * images.astype(np.float32) / 255)
    variables = {"params": autoencoder.params}
    moments = module.apply(variables, x, method="encode")
    np.testing.assert_allclose(autoencoder.moments(images, 2), moments, atol=1e-5)
    assert autoencoder.latent_shape(images.shape[1:]) == moments.shape[1:3] + (
        module.latent_channels,
    )
    latents = moments[..., : module.latent_channels]
    decoded = np.asarray(module.apply(variables, latents, method="decode"))
    expected = np.clip(np.round(255 * (decoded - low) / (1 - low)), 0, 255)
    assert np.abs(autoencoder.decode(np.asarray(latents), 2) - expected).max() <= 1


def test_grey_images_are_encoded_as_colours(tmp_path):
    autoencoder = opened(tmp_path / "ae", KL)
    grey = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    colours = np.repeat(grey, 3, axis=-1)
    np.testing.assert_array_equal(autoencoder.moments(grey), autoencoder.moments(colours))
    with expect_error("--data: images have 4 channels"):
        autoencoder.moments(np.repeat(grey, 4, axis=-1))
    with expect_error("--size: images of 8x7", "factor, 2"):
        autoencoder.moments(colours[:, :, :7])


def test_what_is_saved_is_loaded(tmp_path):
    own = Normalisation((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    autoencoder = opened(tmp_path / "ae", KL, own)
    assert (autoencoder.normalisation, autoencoder.module) == (own, KL)
    assert autoencoder.has_variances and autoencoder.provenance == {"from": "test"}
    assert stored.hash_of(str(tmp_path / "ae")) == autoencoder.hash
    assert stored.hash_of(str(tmp_path / "none")) is None
    file = tmp_path / "ae" / "params.msgpack"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    with expect_error("--autoencoder:", "damaged", "remove it"):
        stored.load(str(tmp_path / "ae"), parallel.make_mesh((1, 1, 1)))


def blurred(x):
    """Takes the mean over 5 x 5 pixels, with zeros around the image."""
    kernel = jnp.ones((5, 5, 1, 1)) / 25
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


FUNCTIONS = {
    "blurred": (blurred, 1),
    "halved": (lambda x: blurred(x)[:, ::2, ::2], 0.5),
    "doubled": (lambda x: blurred(x).repeat(2, axis=1).repeat(2, axis=2), 2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", [(40, 100), (32, 32), (128, 33)], ids=str)
def test_tiles_of_what_sees_two_pixels_far_are_exact(name, shape):
    function, ratio = FUNCTIONS[name]
    x = jnp.asarray(np.random.default_rng(0).random((2, *shape, 1)), jnp.float32)
    height, width = (side // 2 * 2 for side in shape)
    x = x[:, :height, :width]
    tiles = tiling.tiled(function, x, 32, ratio)
    np.testing.assert_allclose(tiles, function(x), atol=1e-6)


def test_an_autoencoder_in_tiles_is_nearly_that_of_the_whole(tmp_path, monkeypatch):
    """Drawn weights see far beyond the overlap of tiles of 64 pixels; elsewhere it is equal."""
    images = np.kron(
        np.random.default_rng(0).integers(0, 256, (1, 8, 12, 3)), np.ones((1, 8, 8, 1))
    ).astype(np.uint8)
    autoencoder = opened(tmp_path / "ae", TINY)
    whole = autoencoder.moments(images)
    stored._encode.cache_clear()
    monkeypatch.setattr(stored, "TILE", 64)
    tiles = autoencoder.moments(images)
    stored._encode.cache_clear()
    assert tiles.shape == whole.shape
    apart = np.abs(tiles - whole)
    assert apart.mean() < 0.12 * whole.std() and np.median(apart) < 0.05 * whole.std()
