"""The denoising pass: each image's noise and level, and the dropout of labels."""

import jax
import jax.numpy as jnp
import numpy as np

from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.objectives.denoising import Denoising

B, NULL = 4096, 5
BATCH = {
    "image": jax.random.uniform(jax.random.key(0), (B, 1, 2, 1), minval=-1),
    "label": jnp.arange(B) % NULL,
    "augment_label": jax.random.normal(jax.random.key(1), (B, 9)),
}


def denoise(**fields):
    """Returns the denoising pass over ``BATCH``."""
    return Denoising(DDPM(), **fields).passes(jax.random.key(2), BATCH)["denoise"]


def test_labels_are_dropped_at_their_rate_and_the_others_stay():
    label = np.asarray(denoise(null_class=NULL, label_dropout=0.1).label)
    original = np.asarray(BATCH["label"])
    dropped = label == NULL
    assert abs(dropped.mean() - 0.1) < 4 * np.sqrt(0.1 * 0.9 / B)
    np.testing.assert_array_equal(label[~dropped], original[~dropped])
    for i in range(NULL):  # Labels of every class are dropped.
        assert 0.05 < dropped[original == i].mean() < 0.2
    np.testing.assert_array_equal(denoise(null_class=NULL, label_dropout=0.0).label, original)


def test_each_image_has_its_own_level_and_noise():
    request = denoise()
    level, noise = np.asarray(request.level), np.asarray(request.noise).reshape(B, -1)
    assert len(np.unique(level)) > 900 and level.min() >= 1 and level.max() <= 1000
    assert len(np.unique(noise)) > 0.99 * noise.size and abs(noise.std() - 1) < 0.05
    assert max(abs(np.corrcoef(level, noise[:, i])[0, 1]) for i in range(2)) < 5 / np.sqrt(B)


def test_images_keep_their_augment_labels_and_a_network_without_labels_gets_none():
    request = denoise()
    np.testing.assert_array_equal(request.x0, BATCH["image"])
    np.testing.assert_array_equal(request.augment_label, BATCH["augment_label"])
    assert request.label is None and request.denoises and not request.teacher
