"""Held-out loss, batches and pictures."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.evaluation.heldout_loss import make_heldout_loss
from ddaepp_jax.evaluation.pictures import grid
from ddaepp_jax.training.sharding import make_mesh


class Scaled(nn.Module):
    """A network whose loss is known: out = scale * x."""

    @nn.compact
    def __call__(self, x, t, y=None, capture=None):
        return self.param("scale", nn.initializers.ones, ()) * x, {}


def test_heldout_loss_is_the_expectation_and_is_repeatable():
    """E (s x_t - epsilon)^2 = s^2 a x0^2 + (s sqrt(1 - a) - 1)^2 over images, padded batches counted once."""
    process, images = DDPM(), np.random.default_rng(0).integers(0, 256, (301, 6, 4, 3), np.uint8)
    mesh = make_mesh((1, 1, 1))
    measure = make_heldout_loss(Scaled(), process, images, None, levels=[1, 400], seed=0, batch_size=64, mesh=mesh)
    params = {"scale": jnp.asarray(0.5)}
    losses = measure(params)
    x0 = np.float64(images) / 127.5 - 1
    for t in (1, 400):
        a = process.alpha_bar[t]
        expected = 0.25 * a * np.square(x0).mean() + (0.5 * np.sqrt(1 - a) - 1) ** 2
        assert abs(losses[f"t{t:04d}"] / expected - 1) < 0.03
    assert losses["mean"] == pytest.approx((losses["t0001"] + losses["t0400"]) / 2)
    assert measure(params) == losses


def test_grid_shows_every_image_in_order():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 64, 32, 3), np.uint8) * 40
    picture = np.asarray(grid(images, columns=2))
    assert picture.shape == (3 * 66 + 2, 2 * 34 + 2, 3)
    for i in range(5):
        assert (picture[2 + i // 2 * 66 : 66 + i // 2 * 66, 2 + i % 2 * 34 : 34 + i % 2 * 34] == 40 * i).all()
    assert grid(images[..., :1]).mode == "L"
    assert grid(np.zeros((1, 8, 8, 1), np.uint8)).size == (80, 80)  # enlarged eightfold, with a gap of 8
