"""Sources of batches: where images lie, and which of them a step gets."""

import jax
import numpy as np
import pytest

from ddaepp_jax.base import parallel
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.data.order import batch_indices
from ddaepp_jax.training.source import resident, streamed

SHAPE = (3, 5, 2)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, *SHAPE), np.uint8)
LABELS = (np.arange(40) % 3).astype(np.int32)
DATA = Dataset(
    *("some", "train", SHAPE, 3, ("a", "b", "c"), 40),
    read=lambda rows: (IMAGES[rows], LABELS[rows]),
)


@pytest.mark.parametrize("kind", ["resident", "streamed"])
def test_a_step_gets_the_images_of_its_indices(kind: str) -> None:
    """NumPy looks up the same images; a resident set lies flat on the device."""
    mesh = parallel.make_mesh((1, 1, 1), jax.devices()[:1])
    if kind == "resident":
        source = resident(DATA, 7, 16, mesh)
    else:
        source = streamed(DATA, 7, 16, mesh, threads=1)
    batches = source.open(5, 8)
    for step in (5, 6, 7):
        arrays = next(batches)
        for name, shape in source.shapes.items():
            assert arrays[name].shape == shape.shape and arrays[name].dtype == shape.dtype
        batch = jax.jit(source.fetch)(arrays, np.int32(step))
        rows = np.asarray(batch_indices(7, step, 16, 40))
        np.testing.assert_array_equal(batch["index"], rows)
        np.testing.assert_array_equal(batch["image"], IMAGES[rows])
        np.testing.assert_array_equal(batch["label"], LABELS[rows])
    held = (40, 30) if kind == "resident" else (16, *SHAPE)
    assert source.shapes["image"].shape == held and source.image_shape == SHAPE
