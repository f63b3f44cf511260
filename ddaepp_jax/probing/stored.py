"""Stores features of a set of images on disk, in a memory-mapped file for each layer.

A stopped extraction continues where it ended.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ddaepp_jax.base.dispatch import InFlight, progress_bar
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.files import replace
from ddaepp_jax.probing.features import Extraction, extract_batches

# (B,) numbers of images -> (B, H, W, C) uint8 and (B,) int32 labels
Read = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def _widths(extraction: Extraction, image_shape: tuple[int, int, int]) -> dict[str, int]:
    """Returns the width C of each layer, without computing features."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    number = jax.ShapeDtypeStruct((), jnp.int32)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    features = jax.eval_shape(extraction.features, extraction.params, images, keys, number, number)
    return {layer: feature.shape[1] for layer, feature in features.items()}


def store(
    directory: Path,
    extraction: Extraction,
    read: Read,
    ids: np.ndarray,
    image_shape: tuple[int, int, int],
    title: str,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Computes features of images and keeps them in the files of a directory.

    Args:
      directory: directory of the files; a stopped extraction in it is continued.
      extraction: how features are computed.
      read: reads images and labels by their numbers.
      ids: (N,) int, the images' numbers.
      image_shape: (H, W, C).
      title: title of the progress bar.

    Returns:
      Features {layer: (N, C) float32} and labels (N,) int32, memory-mapped.

    Raises:
      InputError: the disk is too small.
    """
    directory.mkdir(parents=True, exist_ok=True)
    counter = directory / "count.txt"
    first = int(counter.read_text()) if counter.exists() else 0
    widths = _widths(extraction, image_shape)
    if not first:
        _check_space(directory, 4 * len(ids) * (sum(widths.values()) + 1))

    def memory_map(name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        mode = "r+" if first else "w+"
        return np.lib.format.open_memmap(directory / f"{name}.npy", mode, dtype, shape)

    features = {
        layer: memory_map(layer, (len(ids), width), np.float32) for layer, width in widths.items()
    }
    labels = memory_map("labels", (len(ids),), np.int32)
    remaining = ids[first:]
    done = first

    def read_images(rows: np.ndarray) -> np.ndarray:
        images, labels[first + rows] = read(remaining[rows])
        return images

    def save() -> None:
        for array in (*features.values(), labels):
            array.flush()
        replace(counter, str(done).encode())

    with progress_bar(len(ids), "image", title, initial=first, delay=1) as bar:
        written = InFlight(bar, save, ahead=0)  # A batch counts once it is in the files.
        for batch in extract_batches(extraction, read_images, remaining):
            size = len(next(iter(batch.values())))
            for layer, array in features.items():
                array[done : done + size] = batch[layer]
            done += size
            written.add(batch, size)
    save()
    return features, labels


def _check_space(directory: Path, needed: int) -> None:
    """Refuses a disk with less than ``needed`` bytes free."""
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise InputError(
            f"{directory}: {needed / 2**30:.1f} GiB of features do not fit the "
            f"{free / 2**30:.1f} GiB that are free; free more, or use fewer layers or images"
        )
