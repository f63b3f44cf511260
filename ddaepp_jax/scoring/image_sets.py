"""Sets of images to be scored, and their features by an extractor."""

import dataclasses
import hashlib
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.probing.features import Extraction
from ddaepp_jax.probing.stored import store
from ddaepp_jax.scoring import FEWEST
from ddaepp_jax.scoring.extractors import Extractor

FINGERPRINT = 64  # number of images that are hashed to tell a set from others

Read = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """uint8 images, addressed by their ids 0..count-1.

    Attributes:
      name: the set's name in metrics.
      provenance: where the images come from; it is written into every file made from them.
      image_shape: (H, W, C).
      count: number of images.
      read: maps ids (B,) to images (B, H, W, C) uint8.
    """

    name: str
    provenance: dict[str, Any]
    image_shape: tuple[int, int, int]
    count: int
    read: Read = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return self.count

    @property
    def slug(self) -> str:
        """Name, unique to these images, of the files made from them."""
        words = "-".join(
            str(value) for key, value in self.provenance.items() if key in ("data", "split")
        )
        fingerprint = self.provenance["fingerprint"][:8]
        return f"{re.sub(r'[^A-Za-z0-9.]+', '_', words).strip('_')}-{fingerprint}"


def _fingerprinted(
    name: str, provenance: dict[str, Any], shape: tuple[int, ...], count: int, read: Read
) -> ImageSet:
    """Returns a set whose provenance has a hash of its size and of evenly chosen images."""
    ids = np.unique(np.linspace(0, count - 1, FINGERPRINT).astype(np.int64))
    size = np.array([count, *shape], "<i8").tobytes()
    digest = hashlib.sha256(size + np.ascontiguousarray(read(ids)).tobytes())
    facts = {"images": count, "image_shape": list(shape), "fingerprint": digest.hexdigest()}
    return ImageSet(name, provenance | facts, shape, count, read)


def of_dataset(data: Dataset, name: str) -> ImageSet:
    """Returns all images of a split."""
    provenance = {"data": data.name, "split": data.split}
    return _fingerprinted(
        name, provenance, data.image_shape, len(data), lambda ids: data.gather(ids)[0]
    )


def of_npz(file: Path) -> ImageSet:
    """Returns the images of an .npz file.

    They are its array ``arr_0``, as ADM names it, or ``images``, as ``ddaepp_jax.sample`` names it.

    Raises:
      InputError: the file has no such array, or it isn't uint8 of shape (N, H, W, C).
    """
    images = read_array(file, "arr_0", "images")
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise InputError(
            f"{file}: images are {images.dtype} of shape {images.shape}; give uint8 of (N, H, W, C)"
        )
    return _fingerprinted(
        file.stem, {"data": file.name}, images.shape[1:], len(images), lambda ids: images[ids]
    )


def of_draw(draw: Read, name: str, image_shape: tuple[int, int, int], count: int) -> ImageSet:
    """Returns samples, which are drawn when they are read; they have no provenance.

    Args:
      draw: maps different ids (B,) in rising order to images (B, H, W, C) uint8.
      name: names the samples in errors and beside the progress bar.
      image_shape: (H, W, C).
      count: number of samples.
    """

    def read(ids: np.ndarray) -> np.ndarray:
        different, positions = np.unique(ids, return_inverse=True)  # Padding repeats an id.
        return draw(different)[positions]

    return ImageSet(name, {}, image_shape, count, read)


def subset(images: ImageSet, n: int) -> ImageSet:
    """Returns ``n`` of the images in their order, always the same ones.

    Raises:
      InputError: there are fewer images.
    """
    if not 0 < n <= len(images):
        raise InputError(
            f"--n: {n} is not in 1..{len(images)}, the images of {images.name}; "
            "leave it out to take all"
        )
    chosen = np.sort(np.random.RandomState(0).permutation(len(images))[:n])
    provenance = {"drawn_of": len(images)}
    provenance |= {
        name: images.provenance[name] for name in ("data", "split") if name in images.provenance
    }
    return _fingerprinted(
        images.name, provenance, images.image_shape, n, lambda ids: images.read(chosen[ids])
    )


def read_array(file: Path, *names: str) -> np.ndarray:
    """Reads the first array of an .npz file that has one of ``names``.

    Raises:
      InputError: the file can't be read, or has no such array.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            present = list(arrays)
            chosen = [name for name in names if name in present]
            if chosen:
                return arrays[chosen[0]]
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{file}: not an .npz file that can be read ({first_line(error)}); give another"
        ) from None
    raise InputError(
        f"{file}: has no array {' or '.join(names)} but {', '.join(present) or 'nothing'}; "
        "give another file"
    )


def collect(
    images: ImageSet, extractor: Extractor, directory: Path, batch_size: int
) -> dict[str, np.ndarray]:
    """Computes the features of all images, in files of ``directory``.

    A stopped collection is continued; every image counts once.

    Args:
      images: at least ``FEWEST`` images.
      extractor: the network.
      directory: directory of the features; it may be new.
      batch_size: number of images that are read at once.

    Returns:
      Memory-mapped float32 arrays by layer: "pool" (N, D), "logits" (N, K), and "spatial" (N, S)
      if the extractor has it.

    Raises:
      InputError: there are too few images, the extractor doesn't take them, a feature is not
        finite, or the disk is too small.
    """
    extractor.check(images.image_shape, images.name)
    if len(images) < FEWEST:
        raise InputError(
            f"{images.name}: {len(images)} images are too few to be scored; give {FEWEST} or more"
        )

    def read(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return images.read(ids), np.zeros(len(ids), np.int32)

    extraction = Extraction(
        extractor.features, extractor.params, extractor.mesh, batch_size=batch_size
    )
    ids = np.arange(len(images))
    title = f"{images.name} by {extractor.kind}"
    features, _ = store(directory, extraction, read, ids, images.image_shape, title)
    for layer, values in features.items():
        bad = ~np.isfinite(values.sum(axis=1))
        if bad.any():
            raise InputError(
                f"{images.name}: image {np.argmax(bad)} has a feature ({layer}) that is not "
                f"finite, {bad.sum()} in all; give other images or another extractor"
            )
    return features
