"""The augmentation against EDM's own (tests/golden/README.md), and the laws of the plane and of
chance.
"""

from pathlib import Path

import jax
import numpy as np
import pytest

from ddaepp_jax.data import geometric
from ddaepp_jax.data.augment import to_float
from ddaepp_jax.data.geometric import Transforms

GOLDEN = Path(__file__).parents[1] / "golden" / "geometric.npz"

rng = np.random.default_rng(0)
NOISE = rng.uniform(-1, 1, (16, 8, 12, 3)).astype(np.float32)
SMOOTH = np.sin(np.linspace(0, 3, 16)[:, None] + np.linspace(0, 5, 16))[None, ..., None].astype(
    np.float32
)
INDEX = np.arange(16)

apply = jax.jit(geometric.apply)


def transforms(count: int, **given: float | tuple[float, float]) -> Transforms:
    """The identity of ``count`` images but for what is given, the same for all."""
    numbers, shift = np.zeros((4, count), np.float32), np.zeros((count, 2), np.float32)
    identity = Transforms(*np.zeros((2, count), bool), *numbers, shift)
    return identity._replace(**{k: np.full_like(getattr(identity, k), v) for k, v in given.items()})


@pytest.mark.parametrize("case", ["square", "wide"])
def test_pixels_and_labels_are_those_of_edm(case: str) -> None:
    with np.load(GOLDEN) as golden:
        stored = {
            key.removeprefix(f"{case}."): golden[key] for key in golden if key.startswith(case)
        }
    given = Transforms(*(stored[field] for field in Transforms._fields))
    np.testing.assert_allclose(apply(to_float(stored["images"]), given), stored["out"], atol=2e-5)
    # Sines and cosines may differ by the last bit of a float32 below 1.
    np.testing.assert_allclose(geometric.label(given), stored["label"], rtol=0, atol=1e-7)


def test_the_filter_has_six_vanishing_moments_and_gives_back_what_it_doubled() -> None:
    taps, k = np.array(geometric._SYM6), np.arange(12)
    moments = [(taps * (-1.0) ** k * (k - 5.5) ** m).sum() for m in range(6)]
    np.testing.assert_allclose(moments, 0, atol=1e-8)
    np.testing.assert_allclose(taps.sum(), np.sqrt(2), rtol=1e-11)
    matrix = geometric._coarsen(20)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(20), atol=1e-6)


def test_the_identity_gives_the_images_back_to_the_border_under_a_label_of_zeros() -> None:
    np.testing.assert_allclose(apply(NOISE, transforms(16)), NOISE, atol=2e-6)
    out = geometric.label(transforms(16))
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, np.zeros((16, geometric.AUGMENT_DIM)))


def test_flips_mirror_and_undo_themselves() -> None:
    for name, axis in (("x_flip", 2), ("y_flip", 1)):
        once = apply(NOISE, transforms(16, **{name: True}))
        np.testing.assert_allclose(once, np.flip(NOISE, axis), atol=2e-6)
        np.testing.assert_allclose(apply(once, transforms(16, **{name: True})), NOISE, atol=4e-6)


def test_whole_pixels_shift_right_and_down_and_the_reflection_follows() -> None:
    out = apply(NOISE, transforms(16, shift=(2 / (12 / 8), -3 / (8 / 8))))
    padded = np.pad(NOISE, ((0, 0), (0, 3), (2, 0), (0, 0)), mode="reflect")
    np.testing.assert_allclose(out, padded[:, 3:, :12], atol=1e-5)


def test_a_quarter_turn_is_counterclockwise() -> None:
    out = apply(SMOOTH, transforms(1, angle=np.pi / 2))
    # The filter's centre of mass is a twentieth of a pixel off its place, and that does not turn
    # with the image.
    np.testing.assert_allclose(
        out[:, 2:-2, 2:-2], np.rot90(SMOOTH, axes=(1, 2))[:, 2:-2, 2:-2], atol=0.05
    )


def test_scale_times_stretch_doubles_the_width_alone() -> None:
    out = apply(SMOOTH, transforms(1, scale=2.5, stretch=2.5))
    want = np.sin(np.linspace(0, 3, 16)[:, None] + 2.5 + np.linspace(-1.25, 1.25, 16))
    np.testing.assert_allclose(out[0, 2:-2, 2:-2, 0], want[2:-2, 2:-2], atol=0.02)
    across = apply(SMOOTH, transforms(1, scale=2.5, stretch=-2.5, frame=np.pi / 2))
    np.testing.assert_allclose(across, out, atol=1e-4)


def test_beyond_one_reflection_are_zeros() -> None:
    out = apply(
        np.ones((1, 32, 32, 1), np.float32), transforms(1, scale=-10)
    )  # 8x8, and 23x23 with its reflection
    np.testing.assert_allclose(out[:, 9:-9, 9:-9], 1, atol=1e-5)
    np.testing.assert_array_equal(out[:, [0, 0, -1, -1], [0, -1, 0, -1]], 0)


def test_the_draws_have_their_frequencies_means_and_spreads() -> None:
    n, p = 20_000, 0.12
    drawn = jax.device_get(jax.jit(geometric.draw)(0, 0, np.arange(n), p))
    near = lambda values, mean, std: (
        abs(np.mean(values) - mean) < 4 * std / np.sqrt(np.size(values))
    )
    chances = {
        "x_flip": 0.5,
        "y_flip": p / 2,
        "scale": p,
        "angle": p,
        "stretch": p,
        "frame": 0.5,
        "shift": p,
    }
    on = {name: (np.asarray(getattr(drawn, name)) != 0).reshape(n, -1)[:, 0] for name in chances}
    for name, chance in chances.items():
        assert near(on[name], chance, np.sqrt(chance * (1 - chance))), name
    assert near(on["scale"] & on["angle"], p * p, p), "one does not come with the other"
    for normal in (
        drawn.scale[on["scale"]],
        drawn.stretch[on["stretch"]],
        *drawn.shift[on["shift"]].T,
    ):
        assert near(normal, 0, 1) and near(normal**2, 1, np.sqrt(2))
    for angle in (drawn.angle[on["angle"]] / np.pi, drawn.frame[on["frame"]] / np.pi):
        assert (
            abs(angle).max() <= 1
            and near(angle, 0, np.sqrt(1 / 3))
            and near(angle**2, 1 / 3, np.sqrt(4 / 45))
        )
    x, y = drawn.shift[on["shift"]].T
    assert (y != 0).all() and near(x * y, 0, 1)


def test_an_augmentation_depends_on_seed_step_and_index_only() -> None:
    augment = jax.jit(geometric.augment)
    images, labels = augment(NOISE, 3, 7, INDEX, 0.5)
    some = np.array([11, 2, 5])
    for whole, part in zip(
        (images, labels), geometric.augment(NOISE[some], 3, 7, INDEX[some], 0.5), strict=True
    ):
        np.testing.assert_allclose(part, whole[some], atol=1e-5)
    for seed, step in ((4, 7), (3, 8)):
        assert (np.abs(augment(NOISE, seed, step, INDEX, 0.5)[1] - labels).max(1) > 0).sum() > 12
    neighbours = NOISE.copy()
    neighbours[1:] = 0
    np.testing.assert_allclose(augment(neighbours, 3, 7, INDEX, 0.5)[0][0], images[0], atol=1e-6)
