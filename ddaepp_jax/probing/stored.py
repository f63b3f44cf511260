"""Stores features of a set of images on disk, in a memory-mapped file for each layer.

A stopped extraction continues where it ended. Process 0 alone opens the files: other hosts need not
see its disk, and those that do would have to wait until what it wrote arrives there.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddaepp_jax.base.dispatch import InFlight, progress_bar
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.files import write_json
from ddaepp_jax.base.processes import Delayed, from_first, in_first, together
from ddaepp_jax.base.stop import Stop
from ddaepp_jax.probing.features import Extraction, Read, extract_batches

Arrays = Mapping[str, np.ndarray]


def layer_widths(extraction: Extraction, image_shape: tuple[int, int, int]) -> dict[str, int]:
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

    def after(self, rows: Arrays) -> "_Whole":
        """Returns what is whole after some more rows."""
        hashes = {name: content.copy() for name, content in self.hashes.items()}
        for name, array in rows.items():
            hashes[name].update(np.ascontiguousarray(array))
        return _Whole(self.rows + len(array), hashes)

    def described(self) -> dict[str, Any]:
        """Returns the number of rows and the digests, as the file ``whole.json`` holds them."""
        digests = {name: content.hexdigest() for name, content in self.hashes.items()}
        return {"rows": self.rows, "digests": digests}


class _Files:
    """The open files of a directory.

    Attributes:
      arrays: memory-mapped features and labels, by the file's name.
      whole: the rows that are whole.
    """

    def __init__(self, directory: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.whole = _whole(directory, shapes)
        if not self.whole.rows:
            _make_files(directory, shapes)
        self.arrays = {name: np.load(_file(directory, name), mmap_mode="r+") for name in shapes}
        self._directory = directory

    def append(self, rows: Arrays) -> None:
        """Writes rows after those that are whole."""
        start = self.whole.rows
        place = slice(start, start + len(rows["labels"]))
        for name, array in self.arrays.items():
            array[place] = rows[name]
        self.whole = self.whole.after({name: array[place] for name, array in self.arrays.items()})

    def save(self) -> None:
        """Brings the rows to the disk, and then their number."""
        for array in self.arrays.values():
            array.flush()
        write_json(self._directory / "whole.json", self.whole.described())


def store(
    directory: Path,
    extraction: Extraction,
    read: Read,
    ids: np.ndarray,
    image_shape: tuple[int, int, int],
    title: str,
    computed: bool = False,
) -> tuple[dict[str, np.ndarray], np.ndarray] | None:
    """Computes features of images and keeps them in the files of a directory.

    A stopped extraction is continued after the rows that are whole. If the files are not what was
    written, a line says so, and all features are computed again. A signal ends the extraction after
    the next batch.

    Args:
      directory: directory of the files, in which no other program writes.
      extraction: how features are computed.
      read: reads images and labels by their numbers.
      ids: (N,) int, the images' numbers.
      image_shape: (H, W, C).
      title: title of the progress bar.
      computed: as in ``parallel.read_rows``.

    Returns:
      Features {layer: (N, C) float32} and labels (N,) int32, memory-mapped, in process 0; None in
      the other processes.

    Raises:
      InputError: the disk is too small.
      OSError: the directory cannot be written.
      Stopped: a signal ended the extraction.
    """
    widths = layer_widths(extraction, image_shape)
    shapes = {layer: (len(ids), width) for layer, width in widths.items()} | {"labels": (len(ids),)}
    files = in_first(lambda: _Files(directory, shapes))
    first = from_first(lambda: files.whole.rows)
    remaining = ids[first:]
    writing = Delayed()

    def save() -> None:
        if files:
            files.save()

    def check() -> None:
        writing.check()
        stop.check()

    def read_remaining(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if computed:  # Nobody may begin to compute alone.
            together(check)
        else:
            check()
        return read(remaining[rows])

    try:
        with Stop() as stop, progress_bar(len(ids), "image", title, initial=first, delay=1) as bar:
            written = InFlight(bar, save, ahead=0)  # A batch counts once it is in the files.
            batches = extract_batches(extraction, read_remaining, remaining, computed=computed)
            for features, labels in batches:
                with writing:
                    if files:
                        files.append({**features, "labels": labels})
                    written.add(None, len(labels))
        together(check)
    except BaseException:
        save()  # An error loses the last batch alone.
        raise
    together(save)
    if files is None:
        return None
    features = dict(files.arrays)
    return features, features.pop("labels")


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
