"""The geometric augmentation: EDM's own numbers, plane geometry, and the draws' distributions.

tests/golden/README.md describes EDM's numbers.
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


def transforms(count: int, **fields: float | tuple[float, float]) -> Transforms:
    """Returns the identity for ``count`` images, except for ``fields``, the same for all images."""
    flips = np.zeros((2, count), bool)
    numbers = np.zeros((4, count), np.float32)
    identity = Transforms(*flips, *numbers, np.zeros((count, 2), np.float32))
    changed = {name: np.full_like(getattr(identity, name), x) for name, x in fields.items()}
    return identity._replace(**changed)


@pytest.mark.parametrize("case", ["square", "wide"])
def test_pixels_and_labels_equal_edms(case: str) -> None:
    with np.load(GOLDEN) as golden:
        stored = {
            key.removeprefix(f"{case}."): golden[key] for key in golden if key.startswith(case)
        }
    drawn = Transforms(*(stored[field] for field in Transforms._fields))
    np.testing.assert_allclose(apply(to_float(stored["images"]), drawn), stored["out"], atol=2e-5)
    # Sines and cosines may differ by the last bit of a float32 below 1.
    np.testing.assert_allclose(geometric.label(drawn), stored["label"], rtol=0, atol=1e-7)


def test_sums_and_looked_up_pixels_are_the_same() -> None:
    """TPUs sum, other devices look up; the points lie on pixels, between them and on the border."""
    image = rng.uniform(-1, 1, (13, 17, 3)).astype(np.float32)
    row, column = (rng.uniform(0, size - 1, (9, 11)).astype(np.float32) for size in (13, 17))
    row[0], column[:, 0] = np.round(row[0]), np.round(column[:, 0])
    row[1], row[2], column[:, 1], column[:, 2] = 0, 12, 0, 16
    summed, looked_up = (
        f(jax.numpy.asarray(image), row, column) for f in (geometric._summed, geometric._looked_up)
    )
    np.testing.assert_allclose(summed, looked_up, rtol=0, atol=5e-6)
    rows = np.clip(np.floor(row), 0, 11).astype(int)
    columns = np.clip(np.floor(column), 0, 15).astype(int)
    y, x = (row - rows)[..., None].astype(float), (column - columns)[..., None].astype(float)
    corner = lambda i, j: image[rows + i, columns + j].astype(float)
    expected = (1 - y) * ((1 - x) * corner(0, 0) + x * corner(0, 1)) + y * (
        (1 - x) * corner(1, 0) + x * corner(1, 1)
    )
    np.testing.assert_allclose(summed, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("case", ["square", "wide"])
def test_a_tpus_way_gives_edms_pixels_too(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometric, "_looked_up", geometric._summed)
    with np.load(GOLDEN) as golden:
        drawn = Transforms(*(golden[f"{case}.{field}"] for field in Transforms._fields))
        images, out = golden[f"{case}.images"], golden[f"{case}.out"]
    pixels = jax.jit(lambda *args: geometric.apply(*args))(to_float(images), drawn)
    np.testing.assert_allclose(pixels, out, atol=2e-5)


def test_the_filter_has_six_vanishing_moments_and_undoes_its_doubling() -> None:
    taps = np.array(geometric._SYM6)
    k = np.arange(12)
    moments = [(taps * (-1.0) ** k * (k - 5.5) ** m).sum() for m in range(6)]
    np.testing.assert_allclose(moments, 0, atol=1e-8)
    np.testing.assert_allclose(taps.sum(), np.sqrt(2), rtol=1e-11)
    matrix = geometric._coarsen(20)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(20), atol=1e-6)


def test_the_identity_keeps_images_to_the_border_and_has_a_label_of_zeros() -> None:
    np.testing.assert_allclose(apply(NOISE, transforms(16)), NOISE, atol=2e-6)
    out = geometric.label(transforms(16))
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, np.zeros((16, geometric.AUGMENT_DIM)))


def test_flips_mirror_and_undo_themselves() -> None:
    for name, axis in (("x_flip", 2), ("y_flip", 1)):
        once = apply(NOISE, transforms(16, **{name: True}))
        np.testing.assert_allclose(once, np.flip(NOISE, axis), atol=2e-6)
        np.testing.assert_allclose(apply(once, transforms(16, **{name: True})), NOISE, atol=4e-6)


def test_whole_pixels_shift_right_and_down_and_the_reflection_fills_in() -> None:
    out = apply(NOISE, transforms(16, shift=(2 / (12 / 8), -3 / (8 / 8))))
    padded = np.pad(NOISE, ((0, 0), (0, 3), (2, 0), (0, 0)), mode="reflect")
    np.testing.assert_allclose(out, padded[:, 3:, :12], atol=1e-5)


def test_a_quarter_turn_is_counterclockwise() -> None:
    out = apply(SMOOTH, transforms(1, angle=np.pi / 2))
    # The filter's centre of mass is off by a twentieth of a pixel, which does not turn with the
    # image.
    np.testing.assert_allclose(
        out[:, 2:-2, 2:-2], np.rot90(SMOOTH, axes=(1, 2))[:, 2:-2, 2:-2], atol=0.05
    )


def test_scale_times_stretch_doubles_the_width_alone() -> None:
    out = apply(SMOOTH, transforms(1, scale=2.5, stretch=2.5))
    expected = np.sin(np.linspace(0, 3, 16)[:, None] + 2.5 + np.linspace(-1.25, 1.25, 16))
    np.testing.assert_allclose(out[0, 2:-2, 2:-2, 0], expected[2:-2, 2:-2], atol=0.02)
    across = apply(SMOOTH, transforms(1, scale=2.5, stretch=-2.5, frame=np.pi / 2))
    np.testing.assert_allclose(across, out, atol=1e-4)


def test_beyond_one_reflection_are_zeros() -> None:
    # The image shrinks to 8x8, and to 23x23 with its reflection.
    out = apply(np.ones((1, 32, 32, 1), np.float32), transforms(1, scale=-10))
    np.testing.assert_allclose(out[:, 9:-9, 9:-9], 1, atol=1e-5)
    np.testing.assert_array_equal(out[:, [0, 0, -1, -1], [0, -1, 0, -1]], 0)


def test_the_draws_have_the_right_frequencies_means_and_variances() -> None:
    n = 20_000
    p = 0.12
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
    assert near(on["scale"] & on["angle"], p * p, p), "the two are drawn independently"
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
