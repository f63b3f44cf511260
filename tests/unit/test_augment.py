"""Conversion of pixels; flips and crops: their frequencies, and what they depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddaepp_jax.data.augment import horizontal_flip, random_crop, to_float, to_uint8


@pytest.mark.parametrize("xp", [np, jnp])
def test_floats_span_minus_one_to_one_and_come_back(xp) -> None:
    levels = xp.arange(256, dtype=xp.uint8).reshape(1, 16, 16, 1)
    floats = to_float(levels)
    assert floats.dtype == np.float32 and float(floats.min()) == -1 and float(floats.max()) == 1
    back = to_uint8(floats)
    assert type(back) is type(levels) and back.dtype == np.uint8
    np.testing.assert_array_equal(back, levels)


def test_to_uint8_rounds_and_clips_under_jit_as_on_the_host() -> None:
    floats = np.array([-9.0, -1.0, -0.997, -0.993, 0.001, 1.0, 3.0], np.float32)
    np.testing.assert_array_equal(to_uint8(floats), [0, 0, 0, 1, 128, 255, 255])
    np.testing.assert_array_equal(jax.jit(to_uint8)(floats), to_uint8(floats))


IMAGES = np.random.default_rng(0).integers(0, 256, (512, 4, 6, 3), np.uint8)
INDEX = np.arange(512)


def test_about_half_are_mirrored_and_the_rest_left_alone() -> None:
    out = np.asarray(jax.jit(horizontal_flip)(IMAGES, 0, 0, INDEX))
    images = np.asarray(IMAGES)
    flipped = (out == images[:, :, ::-1]).all((1, 2, 3))
    kept = (out == images).all((1, 2, 3))
    assert (flipped ^ kept).all() and 200 < flipped.sum() < 312
    assert out.dtype == np.uint8


def test_a_flip_depends_on_seed_step_and_index_only() -> None:
    out = horizontal_flip(IMAGES, 3, 7, INDEX)
    order = np.random.default_rng(1).permutation(512)[:100]
    np.testing.assert_array_equal(horizontal_flip(IMAGES[order], 3, 7, INDEX[order]), out[order])
    for other in (horizontal_flip(IMAGES, 4, 7, INDEX), horizontal_flip(IMAGES, 3, 8, INDEX)):
        assert 150 < int((out != other).any((1, 2, 3)).sum()) < 360


def crops(seed: int = 3, step: int = 7, rows: np.ndarray = INDEX) -> np.ndarray:
    """Returns each image's shift down and right, (B, 2).

    It is found by comparison with all shifts of the image with a black rim.
    """
    out = np.asarray(
        jax.jit(random_crop, static_argnums=4)(IMAGES[rows], seed, step, INDEX[rows], 1)
    )
    padded = np.pad(IMAGES[rows], ((0, 0), (1, 1), (1, 1), (0, 0)))
    places = [(i, j) for i in range(3) for j in range(3)]
    same = np.stack([(out == padded[:, i : i + 4, j : j + 6]).all((1, 2, 3)) for i, j in places])
    assert (same.sum(0) == 1).all()
    return np.array(places)[same.argmax(0)]


def test_crops_take_every_place_equally_often() -> None:
    counts = np.zeros((3, 3))
    np.add.at(counts, tuple(crops().T), 1)
    chi_square = np.square(counts - 512 / 9).sum() / (512 / 9)
    assert chi_square < 26.1  # p = 0.001 at 8 degrees of freedom


def test_a_crop_depends_on_seed_step_and_index_only() -> None:
    whole = crops()
    some = np.array([40, 3, 411, 21])
    np.testing.assert_array_equal(crops(rows=some), whole[some])
    for other in (crops(seed=4), crops(step=8)):
        assert (other != whole).any(1).mean() > 0.7
