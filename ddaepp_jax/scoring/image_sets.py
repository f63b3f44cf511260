"""Sets of images to be scored, and their features by an extractor."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.base.processes import in_first
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.probing.features import Extraction, unlabelled
from ddaepp_jax.probing.stored import store
from ddaepp_jax.scoring import FEWEST
from ddaepp_jax.scoring.extractors import Extractor
from ddaepp_jax.scoring.fingerprint import fingerprint

LONGEST = 80  # characters of a set's name in files' names

Read = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """uint8 images, addressed by their ids 0..count-1.

    Attributes:
      name: the set's name in metrics.
      source: where the images come from, e.g. their "data" and "split".
      image_shape: (H, W, C).
      count: number of images.
      read: maps ids (B,) to images (B, H, W, C) uint8.
      drawn: whether reading computes on all devices, so that all processes read the same ids.
    """

    name: str
    source: dict[str, Any]
    image_shape: tuple[int, int, int]
    count: int
    read: Read = dataclasses.field(repr=False)
    drawn: bool = False

    def __len__(self) -> int:
        return self.count

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """The source, the number and shape of the images, and the SHA-256 of every pixel.

        It is written into every file made from the images. The first access reads all of them.
        """
        title = f"hashing {self.name}"
        read = lambda ids: [self.read(ids)]
        digest = fingerprint(read, len(self), self.image_shape, title)
        facts = {"images": len(self), "image_shape": list(self.image_shape), "fingerprint": digest}
        return self.source | facts

    @property
    def slug(self) -> str:
        """Name, unique to these images, of the files made from them."""
        words = "-".join(
            str(value) for key, value in self.source.items() if key in ("data", "split")
        )
        readable = re.sub(r"[^A-Za-z0-9.]+", "_", words).strip("_")[-LONGEST:]
        return f"{readable}-{self.provenance['fingerprint'][:16]}"


def of_dataset(data: Dataset, name: str) -> ImageSet:
    """Returns all images of a split."""
    source = {"data": data.name, "split": data.split}
    return ImageSet(name, source, data.image_shape, len(data), lambda ids: data.gather(ids)[0])


def of_npz(file: Path) -> ImageSet:
    """Returns the images of an .npz file.

    They are its array ``arr_0``, as ADM names it, or ``images``, as ``ddaepp_jax.sample`` names it.

    Raises:
      InputError: the file has no such array, or it isn't uint8 of shape (N, H, W, C).
    """
    images = read_array(file, "arr_0", "images")
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise InputError(
            f"{file}: images are {images.dtype} of shape {images.shape}; give uint8 of (N, H, W, C)"
        )
    return ImageSet(
        file.stem, {"data": file.name}, images.shape[1:], len(images), lambda ids: images[ids]
    )


def of_draw(draw: Read, name: str, image_shape: tuple[int, int, int], count: int) -> ImageSet:
    """Returns samples, which are drawn when they are read.

    Args:
      draw: maps different ids (B,) in rising order to images (B, H, W, C) uint8. It gets as many
        ids as are read, so that a batch with padding is drawn by the same program as the others.
      name: names the samples in errors and beside the progress bar.
      image_shape: (H, W, C).
      count: number of samples.
    """

    def read(ids: np.ndarray) -> np.ndarray:
        different, positions = np.unique(ids, return_inverse=True)  # Padding repeats an id.
        beyond = different[-1] + 1 + np.arange(len(ids) - len(different))
        return draw(np.concatenate([different, beyond]))[positions]

    return ImageSet(name, {}, image_shape, count, read, drawn=True)


def subset(images: ImageSet, n: int) -> ImageSet:
    """Returns ``n`` of the images in their order, always the same ones.

    Raises:
      InputError: there are fewer images, or ``n`` are too few to be scored.
    """
    if not FEWEST <= n <= len(images):
        raise InputError(
            f"--n: {n} is not in {FEWEST}..{len(images)}, the images of {images.name} that can be "
            "scored; leave it out to take all"
        )
    chosen = np.sort(np.random.RandomState(0).permutation(len(images))[:n])
    source = {"drawn_of": len(images), **images.source}
    read = lambda ids: images.read(chosen[ids])
    return dataclasses.replace(images, source=source, count=n, read=read)


def check_count(images: ImageSet, field: str) -> None:
    """Refuses images that are too few to be scored.

    Raises:
      InputError: there are fewer than ``FEWEST`` images; the message begins with ``field``.
    """
    if len(images) < FEWEST:
        raise InputError(
            f"{field}: {images.name} has {len(images)} images, too few for scores; give {FEWEST} "
            "or more"
        )


@contextlib.contextmanager
def open_npz(file: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """Opens the arrays of an .npz file.

    Raises:
      InputError: the file can't be read.
    """
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            yield arrays
    except Exception as error:  # A file of another format can raise anything.
        raise InputError(
            f"{file}: not an .npz file that can be read ({first_line(error)}); give another"
        ) from None


def read_array(file: Path, *names: str) -> np.ndarray:
    """Reads the first array of an .npz file that has one of ``names``.

    Raises:
      InputError: the file can't be read, or has no such array.
    """
    with open_npz(file) as arrays:
        present = list(arrays)
        chosen = [name for name in names if name in present]
        if chosen:
            return arrays[chosen[0]]
    raise InputError(
        f"{file}: has no array {' or '.join(names)} but {', '.join(present) or 'nothing'}; "
        "give another file"
    )


def partial(images: ImageSet, extractor: Extractor) -> Path:
    """Returns the directory of unfinished features, which no other images or weights share."""
    name = f"{images.slug}{extractor.suffix}-{extractor.hash[:16]}"
    return extractor.directory / "partial" / name


def collect(
    images: ImageSet, extractor: Extractor, directory: Path, batch_size: int
) -> dict[str, np.ndarray] | None:
    """Computes the features of all images on all devices, in files of ``directory``.

    A stopped collection is continued; every image counts once.

    Args:
      images: at least ``FEWEST`` images.
      extractor: the network.
      directory: directory of the features; it may be new.
      batch_size: number of images that are read at once.

    Returns:
      Memory-mapped float32 arrays by layer: "pool" (N, D), "logits" (N, K), and "spatial" (N, S)
      if the extractor has it; None in other processes than process 0, which alone has the files.

    Raises:
      InputError: there are too few images, the extractor doesn't take them, a feature is not
        finite, the batch is empty, or the disk is too small.
    """
    extractor.check(images.image_shape, images.name)
    check_count(images, images.name)
    if batch_size < 1:
        raise InputError(f"--batch_size: {batch_size} is not positive; give 1 or more")
    extraction = Extraction(
        extractor.features, extractor.params, extractor.mesh, batch_size=batch_size
    )
    stored = store(
        directory,
        extraction,
        unlabelled(images.read),
        np.arange(len(images)),
        images.image_shape,
        f"{images.name} by {extractor.kind}",
        images.drawn,
    )
    features = stored and stored[0]
    in_first(lambda: _check_finite(images, features))
    return features


def _check_finite(images: ImageSet, features: Mapping[str, np.ndarray]) -> None:
    """Refuses features that are not finite; the message names the first image."""
    for layer, values in features.items():
        with np.errstate(invalid="ignore"):  # inf - inf
            bad = ~np.isfinite(values.sum(axis=1, dtype=np.float64))
        if bad.any():
            raise InputError(
                f"{images.name}: image {np.argmax(bad)} has a feature ({layer}) that is not "
                f"finite, {bad.sum()} in all; give other images or another extractor"
            )
