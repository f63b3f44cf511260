"""The photometric augmentation: torchvision's numbers, and the distributions of the draws.

tests/golden/README.md describes torchvision's numbers.
"""

from itertools import permutations, product
from pathlib import Path

import jax
import numpy as np
import pytest

from ddaepp_jax.data import photometric
from ddaepp_jax.data.augment import to_float
from ddaepp_jax.data.photometric import Edits, Photometric

GOLDEN = Path(__file__).parents[1] / "golden" / "photometric.npz"
NOTHING = Photometric(crop_min=1, jitter=0, grey=0, blur=(0, 0), solarise=(0, 0))
SURE = Photometric(jitter=1, blur=(1, 1), solarise=(0.5, 0.5))

NOISE = np.random.default_rng(0).uniform(-1, 1, (16, 8, 12, 3)).astype(np.float32)
INDEX = np.arange(16)
N = 4000

augment = jax.jit(photometric.augment, static_argnums=(1, 5))
draw = jax.jit(photometric.draw, static_argnums=(0, 4, 5))


def near(values: np.ndarray, mean: float, std: float) -> bool:
    return bool(abs(np.mean(values) - mean) <= 4 * std / np.sqrt(np.size(values)))


def uniform(values: np.ndarray, low: float, high: float) -> bool:
    unit = (values - low) / (high - low)
    inside = -1e-6 < unit.min() < 0.01 and 0.99 < unit.max() < 1 + 1e-6
    return (
        inside
        and near(unit, 1 / 2, np.sqrt(1 / 12))
        and near((unit - 1 / 2) ** 2, 1 / 12, np.sqrt(1 / 180))
    )


@pytest.mark.parametrize("case", ["square", "wide"])
def test_every_edit_equals_torchvisions(case: str) -> None:
    with np.load(GOLDEN) as golden:
        stored = {
            key.removeprefix(f"{case}."): golden[key] for key in golden if key.startswith(case)
        }
    edits = Edits(*(stored[field] for field in Edits._fields))
    out = jax.jit(photometric.apply)(to_float(stored["images"]), edits)
    np.testing.assert_allclose(out, stored["out"], rtol=0, atol=1e-5)


def test_without_other_edits_images_are_only_flipped_at_random() -> None:
    for view, images in enumerate((NOISE[:, :, :8], NOISE[:, :, 4:, :1])):
        out = np.asarray(augment(images, NOTHING, 0, 0, INDEX, view))
        kept = np.abs(out - images).max((1, 2, 3)) < 2e-6
        flipped = np.abs(out - images[:, :, ::-1]).max((1, 2, 3)) < 2e-6
        assert out.dtype == np.float32 and (kept ^ flipped).all() and 0 < flipped.sum() < 16


@pytest.mark.parametrize("channels", [1, 3])
def test_black_white_and_grey_stay_in_range_and_without_colour(channels: int) -> None:
    flat = np.array([-1, 0, 1], np.float32).repeat(100)[:, None, None, None]
    out = np.asarray(
        augment(np.broadcast_to(flat, (300, 8, 8, channels)), SURE, 0, 0, np.arange(300), 1)
    )
    assert np.isfinite(out).all() and out.min() >= -1 and out.max() <= 1
    np.testing.assert_allclose(out, np.broadcast_to(out[:, :1, :1, :1], out.shape), atol=1e-5)


@pytest.mark.parametrize("view", [0, 1])
def test_the_draws_have_the_right_frequencies_and_ranges(view: int) -> None:
    p = Photometric(flip=0.3)
    e = jax.device_get(draw(p, 0, 0, np.arange(N), view, (32, 32)))
    jittered, blurred = (e.factors != 1).all(1), e.sigma != 0
    chances = {p.jitter: jittered, p.grey: e.grey, p.blur[view]: blurred, p.flip: e.flip}
    for chance, on in (*chances.items(), (p.solarise[view], e.solarise)):
        assert near(on, chance, np.sqrt(chance * (1 - chance))), chance
    np.testing.assert_array_equal(e.factors[~jittered], 1)
    np.testing.assert_array_equal(e.hue != 0, jittered)
    for column, strength in zip(e.factors[jittered].T, (0.4, 0.4, 0.2), strict=True):
        assert uniform(column, 1 - strength, 1 + strength)
    assert uniform(e.hue[jittered], -0.1, 0.1)
    sure = jax.device_get(draw(SURE, 1, 0, np.arange(N), view, (32, 32)))
    assert uniform(sure.sigma, 0.1, 2.0) and near(sure.grey & sure.solarise, 0.1, 0.3)


def test_all_24_orders_are_equally_frequent() -> None:
    e = jax.device_get(draw(Photometric(), 0, 0, np.arange(N), 0, (8, 8)))
    drawn = [
        (*order, place) for order, place in zip(e.order.tolist(), e.hue_after.tolist(), strict=True)
    ]
    for order, place in product(permutations(range(3)), range(4)):
        assert near(np.array([d == (*order, place) for d in drawn]), 1 / 24, np.sqrt(23) / 24)


def test_crops_are_distributed_as_in_random_resized_crop() -> None:
    """Sizes are compared with tries made one by one in plain Python; places are uniform."""
    rng = np.random.default_rng(0)
    sizes = []
    while len(sizes) < N:
        area = 32 * 32 * rng.uniform(0.08, 1)
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        size = round(np.sqrt(area / aspect)), round(np.sqrt(area * aspect))
        if max(size) <= 32:  # ten tries fail for one image in 10^10, so that case is left out
            sizes.append(size)
    top, left, height, width = np.asarray(
        draw(Photometric(), 0, 0, np.arange(N), 0, (32, 32)).box
    ).T
    expected_height, expected_width = np.array(sizes).T
    for f in (lambda h, w: h, lambda h, w: w, lambda h, w: h * w, lambda h, w: np.log(w / h) ** 2):
        actual = f(height, width)
        expected = f(expected_height, expected_width)
        error = abs(actual.mean() - expected.mean())
        assert error < 4 * np.sqrt((actual.var() + expected.var()) / N)
    assert min(top.min(), left.min()) == 0 and max((top + height).max(), (left + width).max()) == 32
    for corner, free in ((top, 32 - height), (left, 32 - width)):
        share = (corner[free > 0] / free[free > 0]).astype(float)
        assert near(share, 1 / 2, share.std()) and share.max() == 1


def test_the_middle_is_taken_if_no_crop_fits() -> None:
    for size, box in (
        ((32, 30), [0, 0, 32, 30]),
        ((12, 40), [0, 12, 12, 16]),
        ((40, 12), [12, 0, 16, 12]),
    ):
        boxes = np.asarray(draw(NOTHING, 0, 0, INDEX, 0, size).box)
        assert (boxes == np.array(box)).all(1).any()
        assert (boxes[:, :2] + boxes[:, 2:] <= np.array(size)).all()


def test_a_draw_depends_on_seed_step_index_and_view_only() -> None:
    out = np.asarray(augment(NOISE, SURE, 3, 7, INDEX, 0))
    some = np.array([11, 2, 5])
    np.testing.assert_allclose(
        augment(NOISE[some], SURE, 3, 7, INDEX[some], 0), out[some], atol=1e-5
    )
    neighbours = NOISE.copy()
    neighbours[1:] = 0
    np.testing.assert_allclose(augment(neighbours, SURE, 3, 7, INDEX, 0)[0], out[0], atol=1e-6)
    for seed, step, view in ((4, 7, 0), (3, 8, 0), (3, 7, 1)):
        assert (out != augment(NOISE, SURE, seed, step, INDEX, view)).any((1, 2, 3)).all()
