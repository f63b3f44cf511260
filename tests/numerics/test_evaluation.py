"""The held-out loss, pictures of images, and scores of samples."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ddaepp_jax.base.parallel import make_mesh
from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.reporting.pictures import grid
from ddaepp_jax.scoring import frechet, metrics, references
from ddaepp_jax.training.heldout_loss import make_heldout_loss


class Scaled(nn.Module):
    """A network whose loss is known: its output is scale * x."""

    @nn.compact
    def __call__(self, x, t, y=None, capture=None):
        return self.param("scale", nn.initializers.ones, ()) * x, {}


def test_heldout_loss_is_the_expectation_and_is_repeatable():
    """E (s x_t - epsilon)^2 = s^2 a x0^2 + (s sqrt(1 - a) - 1)^2; padding does not count."""
    process = DDPM()
    images = np.random.default_rng(0).integers(0, 256, (301, 6, 4, 3), np.uint8)
    mesh = make_mesh((1, 1, 1))
    measure = make_heldout_loss(
        Scaled(), process, images, None, levels=[1, 400], seed=0, batch_size=64, mesh=mesh
    )
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
    values = np.arange(0, 200, 40, np.uint8)
    images = np.broadcast_to(values[:, None, None, None], (5, 64, 32, 3))
    picture = np.asarray(grid(images, columns=2))
    assert picture.shape == (3 * 66 + 2, 2 * 34 + 2, 3)
    for i, value in enumerate(values):
        top, left = 2 + i // 2 * 66, 2 + i % 2 * 34
        assert (picture[top : top + 64, left : left + 32] == value).all()
    assert grid(images[..., :1]).mode == "L"
    # Enlarged eightfold, with a gap of 8.
    assert grid(np.zeros((1, 8, 8, 1), np.uint8)).size == (80, 80)


class Labelled(nn.Module):
    """A network whose output is a tenth of its label."""

    @nn.compact
    def __call__(self, x, t, y=None, capture=None):
        return 0 * x + (0 if y is None else y[:, None, None, None] / 10), {}


def test_heldout_loss_uses_the_labels_and_different_noise_at_each_level():
    """E (y/10 - epsilon)^2 = 1 + y^2/100; two levels have different noise."""
    images = np.zeros((64, 8, 8, 1), np.uint8)
    labels = np.arange(64, dtype=np.int32) % 30
    settings = dict(levels=[400, 401], seed=0, batch_size=64, mesh=make_mesh((1, 1, 1)))
    losses = make_heldout_loss(Labelled(), DDPM(), images, labels, **settings)({})
    assert losses["mean"] == pytest.approx(1 + np.square(labels / 10).mean(), rel=0.05)
    assert abs(losses["t0400"] - losses["t0401"]) > 1e-3


def test_kept_features_are_drawn_from_the_whole_set(monkeypatch):
    """The first features would not do, as data sets may be ordered by class."""
    monkeypatch.setattr(references, "FEATURES_AT_MOST", 100)
    features = np.arange(1000.0)[:, None]
    kept = references.fixed_subset(features)[:, 0]
    assert len(set(kept)) == 100 and (np.diff(kept) > 0).all() and abs(kept.mean() - 500) < 100
    np.testing.assert_array_equal(references.fixed_subset(features), kept[:, None])
    np.testing.assert_array_equal(references.fixed_subset(features[:99]), features[:99])


def test_precision_is_of_the_samples_and_recall_of_the_reference():
    """Samples of one of two modes lie within the reference and leave half of it uncovered."""
    rng = np.random.default_rng(0)
    centres = np.repeat([[-50.0, 0.0], [50.0, 0.0]], 100, axis=0)
    real = centres + rng.normal(size=(200, 2))
    fake = centres[:100] + 0.3 * rng.normal(size=(100, 2))
    reference = references.Reference("real", {}, {"pool": frechet.gaussian(real)}, real)
    values = metrics.scores({"pool": fake, "logits": rng.normal(size=(100, 3))}, reference)
    assert values["precision"] > 0.9 and values["recall"] < 0.5
    expected = frechet.distance(frechet.gaussian(fake), frechet.gaussian(real))
    assert values["fd"] == pytest.approx(expected)
