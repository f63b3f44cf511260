"""The denoiser's pass over a batch: noise and levels of each image's own, labels dropped for
guidance.
"""

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


def asked(**fields):
    return Denoising(DDPM(), **fields).passes(jax.random.key(2), BATCH)["denoise"]


def test_labels_are_dropped_at_their_rate_and_the_others_stay():
    label = np.asarray(asked(null_class=NULL, label_dropout=0.1).label)
    dropped = label == NULL
    assert abs(dropped.mean() - 0.1) < 4 * np.sqrt(0.1 * 0.9 / B)
    np.testing.assert_array_equal(label[~dropped], np.asarray(BATCH["label"])[~dropped])
    assert all(
        0.05 < dropped[np.asarray(BATCH["label"]) == i].mean() < 0.2 for i in range(NULL)
    )  # of every class
    np.testing.assert_array_equal(asked(null_class=NULL, label_dropout=0.0).label, BATCH["label"])


def test_each_image_has_its_own_level_and_noise():
    given = asked()
    level, noise = np.asarray(given.level), np.asarray(given.noise).reshape(B, -1)
    assert len(np.unique(level)) > 900 and level.min() >= 1 and level.max() <= 1000
    assert len(np.unique(noise)) > 0.99 * noise.size and abs(noise.std() - 1) < 0.05
    assert max(abs(np.corrcoef(level, noise[:, i])[0, 1]) for i in range(2)) < 5 / np.sqrt(B)


def test_the_image_goes_with_its_augment_label_and_without_labels_where_there_are_none():
    given = asked()
    np.testing.assert_array_equal(given.x0, BATCH["image"])
    np.testing.assert_array_equal(given.augment_label, BATCH["augment_label"])
    assert given.label is None and given.denoises and not given.teacher
