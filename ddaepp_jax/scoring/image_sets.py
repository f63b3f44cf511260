"""Images to be scored, from a data set, a file or a sampler, and their features by an extractor."""

import dataclasses
import hashlib
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.probing.features import Extraction
from ddaepp_jax.probing.stored import store
from ddaepp_jax.scoring.extractors import Extractor

FINGERPRINT = 64  # images that tell a set from others
FEWEST = 10  # that are scored: the Inception Score has so many splits


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """uint8 images by their numbers.

    Attributes:
      name: as scores carry it.
      made: where they come from; goes into every file that is made of them.
      image_shape: (H, W, C).
      read: (B,) numbers -> (B, H, W, C) uint8.
    """

    name: str
    made: dict[str, Any]
    image_shape: tuple[int, int, int]
    count: int
    read: Callable[[np.ndarray], np.ndarray] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return self.count

    @property
    def slug(self) -> str:
        """A file name for what is made of these images: another one for others, by what is known of
        them.
        """
        words = "-".join(str(value) for key, value in self.made.items() if key in ("data", "split"))
        return f"{re.sub(r'[^A-Za-z0-9.]+', '_', words).strip('_')}-{self.made['fingerprint'][:8]}"


def _fingerprinted(
    name: str, made: dict[str, Any], shape: tuple[int, ...], count: int, read: Callable
) -> ImageSet:
    rows = np.unique(np.linspace(0, count - 1, FINGERPRINT).astype(np.int64))
    digest = hashlib.sha256(
        np.array([count, *shape], "<i8").tobytes() + np.ascontiguousarray(read(rows)).tobytes()
    )
    facts = {"images": count, "image_shape": list(shape), "fingerprint": digest.hexdigest()}
    return ImageSet(name, made | facts, shape, count, read)


def of_dataset(data: Dataset, name: str) -> ImageSet:
    """All images of a split."""
    read = lambda rows: data.gather(rows)[0]
    return _fingerprinted(
        name, {"data": data.name, "split": data.split}, data.image_shape, len(data), read
    )


def of_npz(file: Path) -> ImageSet:
    """The images of an .npz file: ``arr_0``, as ADM writes them, or ``images``, as ``sample`` does.

    Raises:
      InputError: it is no such file, or holds other images than uint8 (N, H, W, C).
    """
    images = arrays(file, "arr_0", "images")
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise InputError(
            f"{file}: images are {images.dtype} of shape {images.shape}; give uint8 of (N, H, W, C)"
        )
    return _fingerprinted(
        file.stem, {"data": file.name}, images.shape[1:], len(images), lambda rows: images[rows]
    )


def subset(images: ImageSet, n: int) -> ImageSet:
    """``n`` of the images, always the same ones, in their order."""
    rows = np.sort(np.random.RandomState(0).permutation(len(images))[:n])
    made = {
        "drawn_of": len(images),
        **{name: images.made[name] for name in ("data", "split") if name in images.made},
    }
    return _fingerprinted(
        images.name, made, images.image_shape, n, lambda numbers: images.read(rows[numbers])
    )


def arrays(file: Path, *names: str) -> np.ndarray:
    """The first of an .npz file's arrays that has one of ``names``.

    Raises:
      InputError: it cannot be read, or has none of them.
    """
    try:
        with np.load(file, allow_pickle=False) as held:
            found = next((name for name in names if name in held), None)
            if found is None:
                raise InputError(
                    f"{file}: no array {' or '.join(names)} but {', '.join(held) or 'nothing'}"
                )
            return held[found]
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{file}: not an .npz file that can be read ({first_line(error)})"
        ) from None


def collect(
    images: ImageSet, extractor: Extractor, directory: Path, batch_size: int, mesh: Mesh
) -> dict[str, Any]:
    """{"pool": (N, D), "logits": (N, K), and where there is one "spatial": (N, S)} float32, as
    files of ``directory``.

    A stopped collection goes on where it ended; every image counts once.

    Raises:
      InputError: the images are too few, the extractor does not take them, a feature is not finite,
        or the disk is too small.
    """
    extractor.check(images.image_shape, images.name)
    if len(images) < FEWEST:
        raise InputError(
            f"{images.name}: {len(images)} images are too few to be scored; at least {FEWEST} are needed"
        )

    def read(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return images.read(numbers), np.zeros(len(numbers), np.int32)

    found, _ = store(
        directory,
        Extraction(extractor.features, extractor.params, mesh, batch_size=batch_size),
        read,
        np.arange(len(images)),
        images.image_shape,
        f"{images.name} by {extractor.kind}",
    )
    for layer, features in found.items():
        bad = ~np.isfinite(features.sum(axis=1))
        if bad.any():
            raise InputError(
                f"{images.name}: image {np.argmax(bad)} has a feature ({layer}) that is not finite, {bad.sum()} in all"
            )
    return found
