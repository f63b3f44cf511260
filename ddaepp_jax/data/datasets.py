"""Data sets addressed by index: scikit-learn's digits and TensorFlow Datasets.

TensorFlow Datasets (TFDS) are read without TensorFlow. Image folders are in ``folders``.
"""

import dataclasses
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.data import images as pixels
from ddaepp_jax.data.encoding import Encoding

Read = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
Size = tuple[int, int]
Shape = tuple[int, int, int]

UINT8 = np.dtype(np.uint8)
_CHUNK = 256  # most images that a thread of `Dataset.gather` reads at once
_NAMED = 10  # most classes that a description names


class Span(NamedTuple):
    """The images ``start, .., stop - 1`` of a split that a set declares."""

    split: str
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A set of images of one shape, addressed by index, with or without labels.

    Images are uint8. Latents are read in the form of their ``encoding``, or normalised as float32
    (``clean``).

    Attributes:
      name: name of the set, or its folder as the user wrote it.
      split: name of the split.
      image_shape: (H, W, C) that a network gets.
      num_classes: number of classes; 0 for a set without labels, whose labels are all 0.
      class_names: ``num_classes`` names, in the order of the labels.
      length: number of images.
      read: maps (B,) indices to records (B, *record_shape) of ``dtype`` and labels (B,) int32;
        several threads may call it at once.
      dtype: type of what is read: uint8 for images.
      encoding: form of stored latents; None for images and for normalised latents.
      folder: folder of the image files, for a set that is one.
      files: image files in the order of the indices, for a set that is a folder.
      spans: the images' places in the set's own splits, if ``split`` is made of those.
      note: says what a folder's entries were taken for, and what was left out.
    """

    name: str
    split: str
    image_shape: Shape
    num_classes: int
    class_names: tuple[str, ...]
    length: int
    read: Read = dataclasses.field(repr=False)
    dtype: np.dtype = UINT8
    encoding: Encoding | None = None
    folder: Path | None = None
    files: tuple[Path, ...] = dataclasses.field(default=(), repr=False)
    spans: tuple[Span, ...] = ()
    note: str = ""

    def __len__(self) -> int:
        return self.length

    @property
    def record_shape(self) -> Shape:
        """Shape of what is read of an image: (H, W, C), or that of stored latents."""
        return self.image_shape if self.encoding is None else self.encoding.record_shape

    def clean(self) -> "Dataset":
        """Returns the same set with the normalised means of stored latents in their place."""
        encoding, read = self.encoding, self.read
        if encoding is None:
            return self

        def read_means(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            records, labels = read(indices)
            return encoding.means(records), labels

        return dataclasses.replace(self, read=read_means, dtype=np.dtype(np.float32), encoding=None)

    @property
    def identity(self) -> str:
        """Identifies the set: the resolved path of its folder, or else its name.

        Files that are stored for each data set are stored under this.
        """
        return self.name if self.folder is None else str(self.folder.resolve())

    @property
    def described(self) -> str:
        """Describes the images in one line for people."""
        shape = "x".join(map(str, self.image_shape))
        names = ", ".join(self.class_names[:_NAMED])
        more = ", .." if self.num_classes > _NAMED else ""
        noun = "class" if self.num_classes == 1 else "classes"
        classes = f" in {self.num_classes} {noun} ({names}{more})" if self.num_classes else ""
        note = f"; {self.note}" if self.note else ""
        what = "image" if self.dtype == np.uint8 else "latent"
        images = f"{self.length} {what}{'s' * (self.length != 1)} of {shape}"
        line = f"{self.name} {self.split}: {images}{classes}{note}"
        return line.encode("utf-8", "backslashreplace").decode()  # A path may be no text.

    @property
    def nbytes(self) -> int:
        """Size of all images as they are read, in bytes."""
        return self.length * prod(self.record_shape) * self.dtype.itemsize

    def shared(self, other: "Dataset") -> int:
        """Returns the number of images that another split of the same set holds too."""
        if self.files and other.files:
            return len(_places(self.files) & _places(other.files))
        if self.identity != other.identity:
            return 0
        spans = [each.spans or (Span(each.split, 0, each.length),) for each in (self, other)]
        return sum(
            max(0, min(one.stop, two.stop) - max(one.start, two.start))
            for one, two in itertools.product(*spans)
            if one.split == two.split
        )

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Reads the images with (B,) indices.

        Returns:
          "image" (B, *record_shape) of ``dtype``, "label" (B,) int32, "index" (B,) int32.

        Raises:
          InputError: an image cannot be read, or its label is out of range.
        """
        images, labels = self.read(indices)
        outside = (labels < 0) | (labels >= max(self.num_classes, 1))
        if outside.any():
            raise InputError(
                f"data.split: {self.name} {self.split} gives image {indices[outside][0]} the label "
                f"{labels[outside][0]}, outside 0..{self.num_classes - 1}; use a split with labels"
            )
        return {"image": images, "label": labels, "index": np.asarray(indices, np.int32)}

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Reads all images (N, *record_shape) of ``dtype``, and labels (N,) int32.

        A progress bar appears if that takes long.
        """
        return self.gather(np.arange(self.length), f"reading {self.name} {self.split}")

    def resident(self) -> "Dataset":
        """Returns the same set with its images in memory."""
        images, labels = self.arrays()
        return dataclasses.replace(self, read=lambda rows: (images[rows], labels[rows]))

    def gather(self, indices: np.ndarray, progress: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Reads the images and labels of (B,) indices on all cores.

        Args:
          indices: (B,) int.
          progress: title of a progress bar that appears after a while; "" shows none.
        """
        from tqdm import tqdm

        count = len(indices)
        images = np.empty((count, *self.record_shape), self.dtype)
        labels = np.empty(count, np.int32)
        threads = os.cpu_count() or 1
        chunk = max(1, min(_CHUNK, -(-count // threads)))

        def fill(start: int) -> int:
            rows = slice(start, min(start + chunk, count))
            batch = self.batch(indices[rows])
            images[rows] = batch["image"]
            labels[rows] = batch["label"]
            return rows.stop - start

        bar = tqdm(total=count, desc=progress, unit="image", delay=2, disable=not progress)
        with bar, ThreadPoolExecutor(threads) as pool:
            for finished in pool.map(fill, range(0, count, chunk)):
                bar.update(finished)
        return images, labels


def _places(files: tuple[Path, ...]) -> set[tuple[Path, str]]:
    """Returns files in a form that is the same by whatever link a folder was reached."""
    resolved = {folder: folder.resolve() for folder in {file.parent for file in files}}
    return {(resolved[file.parent], file.name) for file in files}


def digits(split: str) -> Dataset:
    """Opens scikit-learn's 1797 digits: 8x8x1 images, 0..16 scaled to 0..255.

    The split `train` is the first 1500 images, `test` the rest.
    """
    rows = {"train": slice(0, 1500), "test": slice(1500, None)}.get(split)
    if rows is None:
        raise InputError(f"data.split: digits has no split {split!r}; use train or test")
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = np.round(images[rows] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = labels[rows].astype(np.int32)
    names = tuple(str(i) for i in range(10))
    return Dataset(
        "digits", split, (8, 8, 1), 10, names, len(images), lambda i: (images[i], labels[i])
    )


# ---- TensorFlow Datasets


def tfds(
    name: str,
    split: str,
    data_dir: str | None = None,
    size: Size | None = None,
    download: bool = True,
) -> Dataset:
    """Opens a TFDS set from its ArrayRecord files; downloads and prepares them if they are missing.

    The labels are the set's feature `label`, if it has one. Pillow decodes the images.

    Args:
      name: name as TFDS spells it: "cifar10", "name/config", "name:version", or
        "name/config:version"; or "tiny_imagenet", which is made from the unpacked archive in
        ``data_dir`` and has the splits "train" and "val".
      split: one of the set's splits, or a slice of one: "train", "train[:90%]".
      data_dir: folder of the prepared sets; None is TFDS's own, ~/tensorflow_datasets.
      size: (H, W) to resize and crop images to by ``images.center_crop``; None keeps their size,
        and then the set has to declare one.
      download: whether a missing set may be downloaded.

    Raises:
      InputError: there is no such set or split, the file format has no random access, there is no
        network, or the images have different sizes.
    """
    from ddaepp_jax.data import prepare

    builder = prepare.prepared_builder(name, data_dir)
    if builder is None:
        if not download:
            raise InputError(
                f"data.data_dir: no prepared {name} in {data_dir}; "
                "allow the download or give its folder"
            )
        builder = prepare.prepare(name, data_dir)
    image_shape, class_names = _declared(builder, name, size)
    source = _open_split(builder, name, split)

    def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        examples: list[Any] = source.__getitems__([int(i) for i in indices])
        labels = [example["label"] if class_names else 0 for example in examples]
        images = [
            pixels.decode(
                example["image"], image_shape, size is not None, f"image {i} of {name} {split}"
            )
            for i, example in zip(indices, examples, strict=True)
        ]
        return np.stack(images), np.array(labels, np.int32)

    return Dataset(
        name,
        split,
        image_shape,
        len(class_names),
        class_names,
        len(source),
        read,
        spans=_spans(builder, split),
    )


def tfds_described(
    name: str, data_dir: str | None = None, size: Size | None = None
) -> tuple[Shape, tuple[str, ...]]:
    """Returns (H, W, C) and the class names of a TFDS set, which need not be downloaded.

    Raises:
      InputError: as for ``tfds``, except for errors about files and splits.
    """
    from ddaepp_jax.data import prepare

    builder = prepare.prepared_builder(name, data_dir) or prepare.new_builder(name, data_dir)
    return _declared(builder, name, size)


def _declared(builder: Any, name: str, size: Size | None) -> tuple[Shape, tuple[str, ...]]:
    """Returns (H, W, C) of the images, brought to ``size``, and the class names a set declares."""
    from tensorflow_datasets.core.features import ClassLabel, Image

    features = dict(builder.info.features.items())
    image = features.get("image")
    label = features.get("label")
    if not isinstance(image, Image):
        raise InputError(
            f"data.name: {name} has no feature 'image' but {', '.join(features)}; "
            "use a set of images"
        )
    height, width, channels = image.shape
    if channels not in pixels.MODES or image.np_dtype != np.uint8:
        raise InputError(f"data.name: {name} has no 8-bit grey or colour images; use another set")
    if size is None and None in (height, width):
        raise InputError(
            f"data.size: {name} has images of different sizes; "
            "give the (height, width) to bring them to"
        )
    class_names = tuple(label.names) if isinstance(label, ClassLabel) else ()
    return (*(size or (height, width)), channels), class_names


def _open_split(builder: Any, name: str, split: str) -> Any:
    """Opens a split for random access, with its images left encoded."""
    import tensorflow_datasets

    image = tensorflow_datasets.features.Image
    encoded = {
        key: tensorflow_datasets.decode.SkipDecoding()
        for key, feature in builder.info.features.items()
        if isinstance(feature, image)
    }
    try:
        return builder.as_data_source(split, decoders=encoded)
    except NotImplementedError as error:
        raise InputError(
            f"data.data_dir: {builder.data_dir} holds {builder.info.file_format.value}, which has "
            "no random access; prepare it with file_format='array_record' or give another folder"
        ) from error
    except ValueError as error:
        raise InputError(
            f"data.split: {name} has no images for {split!r}; "
            f"use one of {', '.join(builder.info.splits)}"
        ) from error


def _spans(builder: Any, split: str) -> tuple[Span, ...]:
    """Returns the places of a split's images in the splits that the set declares."""
    from tensorflow_datasets.core import ReadInstruction

    lengths = {name: info.num_examples for name, info in builder.info.splits.items()}
    parts = ReadInstruction.from_spec(split).to_absolute(builder.info.splits)
    return tuple(
        Span(
            part.splitname, part.from_ or 0, lengths[part.splitname] if part.to is None else part.to
        )
        for part in parts
    )
