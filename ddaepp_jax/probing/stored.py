"""Stores features of a set of images on disk, in a memory-mapped file for each layer.

A stopped extraction continues where it ended.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddaepp_jax.base.dispatch import InFlight, progress_bar
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.files import write_json
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


@dataclasses.dataclass(frozen=True)
class _Whole:
    """The rows at the beginning of the files that are whole.

    Attributes:
      rows: number of rows.
      hashes: a hash of these rows by the file's name.
    """

    rows: int
    hashes: Mapping[str, Any]

    def after(self, rows: Mapping[str, np.ndarray]) -> "_Whole":
        """Returns what is whole after some more rows."""
        hashes = {name: content.copy() for name, content in self.hashes.items()}
        for name, array in rows.items():
            hashes[name].update(np.ascontiguousarray(array))
        return _Whole(self.rows + len(array), hashes)

    def described(self) -> dict[str, Any]:
        """Returns the number of rows and the digests, as the file ``whole.json`` holds them."""
        digests = {name: content.hexdigest() for name, content in self.hashes.items()}
        return {"rows": self.rows, "digests": digests}


def store(
    directory: Path,
    extraction: Extraction,
    read: Read,
    ids: np.ndarray,
    image_shape: tuple[int, int, int],
    title: str,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Computes features of images and keeps them in the files of a directory.

    A stopped extraction is continued after the rows that are whole. If the files are not what was
    written, a line says so, and all features are computed again.

    Args:
      directory: directory of the files, in which no other process writes.
      extraction: how features are computed.
      read: reads images and labels by their numbers.
      ids: (N,) int, the images' numbers.
      image_shape: (H, W, C).
      title: title of the progress bar.

    Returns:
      Features {layer: (N, C) float32} and labels (N,) int32, memory-mapped.

    Raises:
      InputError: the disk is too small.
      OSError: the directory cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    widths = _widths(extraction, image_shape)
    shapes = {layer: (len(ids), width) for layer, width in widths.items()} | {"labels": (len(ids),)}
    whole = _whole(directory, shapes)
    if not whole.rows:
        _make_files(directory, shapes)
    features = {name: np.load(_file(directory, name), mmap_mode="r+") for name in shapes}
    labels = features.pop("labels")
    first = whole.rows
    remaining = ids[first:]

    def read_images(rows: np.ndarray) -> np.ndarray:
        images, labels[first + rows] = read(remaining[rows])
        return images

    def save() -> None:
        for array in (*features.values(), labels):
            array.flush()
        write_json(directory / "whole.json", whole.described())

    try:
        with progress_bar(len(ids), "image", title, initial=first, delay=1) as bar:
            written = InFlight(bar, save, ahead=0)  # A batch counts once it is in the files.
            for batch in extract_batches(extraction, read_images, remaining):
                size = len(next(iter(batch.values())))
                rows = slice(whole.rows, whole.rows + size)
                for layer, array in features.items():
                    array[rows] = batch[layer]
                arrays = {**features, "labels": labels}
                whole = whole.after({name: array[rows] for name, array in arrays.items()})
                written.add(batch, size)
    finally:
        save()  # An error loses the last batch alone.
    return features, labels


def _file(directory: Path, name: str) -> Path:
    return directory / f"{name}.npy"


def _whole(directory: Path, shapes: Mapping[str, tuple[int, ...]]) -> _Whole:
    """Reads which rows are whole; none are if a file is not what was written."""
    nothing = _Whole(0, {name: hashlib.blake2b() for name in shapes})
    file = directory / "whole.json"
    if not file.exists():
        return nothing
    try:
        written = json.loads(file.read_bytes())
        arrays = {name: np.load(_file(directory, name), mmap_mode="r") for name in shapes}
        if any(array.shape != shapes[name] for name, array in arrays.items()):
            raise ValueError
        whole = nothing.after({name: array[: written["rows"]] for name, array in arrays.items()})
        if whole.described() != written:
            raise ValueError
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        print(
            f"warning: {directory}: its files are damaged; the features are computed again",
            flush=True,
        )
        return nothing
    return whole


def _make_files(directory: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Makes files of zeros that take their whole space at once.

    A memory-mapped file without its space would end the process where the disk is full.
    """
    needed = sum(4 * int(np.prod(shape)) for shape in shapes.values())
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise InputError(
            f"{directory}: {needed / 2**30:.1f} GiB of features do not fit the "
            f"{free / 2**30:.1f} GiB that are free; free more, or use fewer layers or images"
        )
    for name, shape in shapes.items():
        dtype = np.int32 if name == "labels" else np.float32
        file = _file(directory, name)
        np.lib.format.open_memmap(file, "w+", dtype, shape)
        with file.open("r+b") as stream:
            size = os.fstat(stream.fileno()).st_size
            if hasattr(os, "posix_fallocate"):  # macOS lacks it.
                os.posix_fallocate(stream.fileno(), 0, size)
