"""Two views of each image: the order of their augmentations, and their independent draws."""

from functools import partial

import jax
import numpy as np
import pytest

from ddaepp_jax.data import augment, geometric, photometric
from ddaepp_jax.data.photometric import Photometric
from ddaepp_jax.data.views import View, two_views

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)
INDEX = np.arange(64)


def views(
    images: np.ndarray = IMAGES,
    index: np.ndarray = INDEX,
    *,
    geometric: float = 0.0,
    photometric: Photometric | None = None,
    flip: bool = False,
) -> tuple[View, View]:
    return jax.jit(partial(two_views, geometric=geometric, photometric=photometric, flip=flip))(
        images, 3, 7, index
    )


@partial(jax.jit, static_argnums=1)
def edit(images: jax.Array, number: int) -> jax.Array:
    return photometric.augment(images, Photometric(), 3, 7, INDEX, number)


@partial(jax.jit, static_argnums=1)
def transform(images: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
    return geometric.augment(images, 3, 7, INDEX, 0.3, f"geometric_{number}")


def test_without_any_augmentation_both_views_are_the_images() -> None:
    for view in views():
        np.testing.assert_allclose(view.image, augment.to_float(IMAGES), atol=1e-6)
        assert view.augment_label is None


def test_flips_alone_are_drawn_for_each_view() -> None:
    flipped = []
    for view in views(flip=True):
        assert view.augment_label is None
        image = augment.to_uint8(np.asarray(view.image))
        kept = (image == IMAGES).all((1, 2, 3))
        flip = (image == IMAGES[:, :, ::-1]).all((1, 2, 3))
        assert (kept ^ flip).all() and 16 < flip.sum() < 48
        flipped.append(flip)
    assert 16 < (flipped[0] ^ flipped[1]).sum() < 48


@pytest.mark.parametrize("flip", [False, True])
def test_edms_augmentation_has_labels_and_no_other_flip(flip: bool) -> None:
    for number, view in enumerate(views(geometric=0.3, flip=flip)):
        image, label = transform(augment.to_float(IMAGES), number)
        np.testing.assert_allclose(view.image, image, atol=1e-4)
        np.testing.assert_allclose(view.augment_label, label, atol=1e-6)


@pytest.mark.parametrize("flip", [False, True])
def test_mocos_views_differ_and_have_no_other_flip(flip: bool) -> None:
    first, second = views(photometric=Photometric(), flip=flip)
    for number, view in enumerate((first, second)):
        np.testing.assert_allclose(view.image, edit(augment.to_float(IMAGES), number), atol=1e-5)
        assert view.augment_label is None
    assert (np.asarray(first.image) != second.image).any((1, 2, 3)).all()


def test_each_view_is_edited_and_then_transformed_by_its_own_draw() -> None:
    both = views(photometric=Photometric(), geometric=0.3)
    for number, view in enumerate(both):
        image, label = transform(edit(augment.to_float(IMAGES), number), number)
        np.testing.assert_allclose(view.image, image, atol=1e-4)
        np.testing.assert_allclose(view.augment_label, label, atol=1e-6)
    a, b = (np.asarray(view.augment_label) for view in both)
    both_zero = (a == 0) & (b == 0)
    assert ((a != b) | both_zero)[:, 2:].all(), "a transform drawn in both views differs"
    assert 16 < (a[:, 0] != b[:, 0]).sum() < 48


def test_any_part_of_a_batch_has_the_same_views() -> None:
    some = np.array([40, 3, 21])
    whole = views(photometric=Photometric(), geometric=0.3)
    part = views(IMAGES[some], INDEX[some], photometric=Photometric(), geometric=0.3)
    for expected, actual in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
        np.testing.assert_allclose(actual, np.asarray(expected)[some], atol=1e-4)
