from functools import partial

import jax
import numpy as np
import pytest

from ddaepp_jax.data import augment, geometric, photometric
from ddaepp_jax.data.photometric import Photometric
from ddaepp_jax.data.views import two_views

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)
INDEX = np.arange(64)


def views(images=IMAGES, index=INDEX, *, geometric=0.0, photometric=None, flip=False):
    return jax.jit(partial(two_views, geometric=geometric, photometric=photometric, flip=flip))(images, 3, 7, index)


def test_without_any_augmentation_both_views_are_the_images() -> None:
    for view in views():
        np.testing.assert_array_equal(view.image, augment.to_float(IMAGES))
        assert view.augment_label is None


def test_flips_alone_are_a_coin_for_each_view() -> None:
    images, flipped = augment.to_float(IMAGES), []
    for view in views(flip=True):
        assert view.augment_label is None
        flipped.append((np.asarray(view.image) == images[:, :, ::-1]).all((1, 2, 3)))
        np.testing.assert_array_equal(
            view.image, np.where(flipped[-1][:, None, None, None], images[:, :, ::-1], images)
        )
        assert 16 < flipped[-1].sum() < 48
    assert 16 < (flipped[0] ^ flipped[1]).sum() < 48


@pytest.mark.parametrize("flip", [False, True])
def test_edms_pipeline_comes_with_its_labels_and_with_no_other_flip(flip: bool) -> None:
    for number, view in enumerate(views(geometric=0.3, flip=flip)):
        drawn = geometric.draw(3, 7, INDEX, 0.3, f"geometric_{number}")
        np.testing.assert_allclose(view.augment_label, geometric.label(drawn), atol=1e-6)
        np.testing.assert_allclose(view.image, geometric.apply(augment.to_float(IMAGES), drawn), atol=1e-4)


@pytest.mark.parametrize("flip", [False, True])
def test_mocos_views_differ_in_all_draws_and_come_with_no_other_flip(flip: bool) -> None:
    first, second = views(photometric=Photometric(), flip=flip)
    for number, view in enumerate((first, second)):
        drawn = photometric.draw(Photometric(), 3, 7, INDEX, number, (8, 8))
        np.testing.assert_allclose(view.image, photometric.apply(augment.to_float(IMAGES), drawn), atol=1e-5)
        assert view.augment_label is None
    assert (first.image != second.image).any((1, 2, 3)).all()


def test_the_geometry_is_of_the_edited_image() -> None:
    edited = views(photometric=Photometric())
    for number, (view, before) in enumerate(zip(views(photometric=Photometric(), geometric=0.3), edited, strict=True)):
        image, label = geometric.augment(before.image, 3, 7, INDEX, 0.3, f"geometric_{number}")
        np.testing.assert_allclose(view.image, image, atol=1e-4)
        np.testing.assert_allclose(view.augment_label, label, atol=1e-6)
    a, b = (np.asarray(view.augment_label) for view in views(geometric=0.3))
    assert not np.array_equal(a[:, 0], b[:, 0])


def test_any_part_of_a_batch_has_the_same_views() -> None:
    some = np.array([40, 3, 21])
    whole = views(photometric=Photometric(), geometric=0.3)
    part = views(IMAGES[some], INDEX[some], photometric=Photometric(), geometric=0.3)
    for of_whole, of_part in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
        np.testing.assert_allclose(of_part, np.asarray(of_whole)[some], atol=1e-4)
