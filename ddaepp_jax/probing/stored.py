"""Features of a set of images on disk, a memory-mapped file a layer; a stopped extraction goes on
where it ended.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.files import replace
from ddaepp_jax.probing.features import Features, extract, make_feature_batch

SAVE_SECONDS = 30.0

# (B,) numbers of images -> (B, H, W, C) uint8 and (B,) int32 labels
Read = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def widths(features: Features, params: Any, image_shape: tuple[int, int, int]) -> dict[str, int]:
    """{layer: C} of what ``features`` returns."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    number = jax.ShapeDtypeStruct((), jnp.int32)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return {
        layer: f.shape[1]
        for layer, f in jax.eval_shape(features, params, images, keys, number, number).items()
    }


def store(
    directory: Path,
    features: Features,
    params: Any,
    read: Read,
    ids: np.ndarray,
    sizes: Mapping[str, int],
    *,
    level: Any,
    seed: int,
    batch_size: int,
    mesh: Mesh,
    title: str,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Features {layer: (N, C)} and labels (N,) of the images ``ids`` (N,), in files of
    ``directory``.

    Args:
      sizes: {layer: C}.
      level: the noise level, in the type that the process takes.
      title: of the progress bar.

    Raises:
      InputError: the disk is too small.
    """
    directory.mkdir(parents=True, exist_ok=True)
    counter = directory / "count.txt"
    first = int(counter.read_text()) if counter.exists() else 0
    needed, free = 4 * len(ids) * (sum(sizes.values()) + 1), shutil.disk_usage(directory).free
    if not first and needed > free:
        raise InputError(
            f"--out: {needed / 2**30:.1f} GiB of features for the {free / 2**30:.1f} GiB free at {directory}; "
            "give another place, or ask for less"
        )

    def file(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.lib.format.open_memmap(
            directory / f"{name}.npy", "r+" if first else "w+", dtype, shape
        )

    files = {layer: file(layer, (len(ids), size), np.float32) for layer, size in sizes.items()}
    labels, rest, start = file("labels", (len(ids),), np.int32), ids[first:], first

    def images(rows: np.ndarray) -> np.ndarray:
        pixels, labels[start + rows] = read(rest[rows])
        return pixels

    compiled, written, done = make_feature_batch(features, mesh), time.monotonic(), first
    pieces = extract(
        compiled, params, images, rest, level=level, seed=seed, batch_size=batch_size, mesh=mesh
    )
    with tqdm(
        total=len(ids), initial=first, unit="image", desc=title, delay=1, dynamic_ncols=True
    ) as bar:
        for piece in pieces:
            end = done + len(next(iter(piece.values())))
            for layer, array in files.items():
                array[done:end] = piece[layer]
            bar.update(end - done)
            done = end
            if time.monotonic() - written > SAVE_SECONDS or done == len(ids):
                for array in (*files.values(), labels):
                    array.flush()
                replace(counter, str(done).encode())
                written = time.monotonic()
    return files, labels
