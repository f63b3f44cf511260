"""Sets of images addressed by index: scikit-learn's digits, TensorFlow Datasets (without
TensorFlow), image folders.
"""

import dataclasses
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.data import images as pixels

Read = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_SPLITS = {"train", "val", "valid", "validation", "test"}
_CHUNK = 256  # images that a thread of `Dataset.gather` reads at once, at most


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A labelled or unlabelled set of uint8 images of one shape, addressed by index.

    Attributes:
        name, split: as the loader was asked for them.
        image_shape: (H, W, C).
        num_classes: 0 where the set has no labels; all labels then read 0.
        class_names: num_classes names, in the order of the labels.
        length: number of images.
        read: (B,) indices -> images (B, H, W, C) uint8 and labels (B,) int32; threads may call it
          at once.
    """

    name: str
    split: str
    image_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...]
    length: int
    read: Read = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return self.length

    @property
    def nbytes(self) -> int:
        """Bytes of all images as uint8."""
        return self.length * prod(self.image_shape)

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The images of (B,) indices: "image" (B, H, W, C) uint8, "label" (B,) int32, "index" (B,)
        int32.

        Raises:
            InputError: an image cannot be read, or has a label out of range.
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
        """All images (N, H, W, C) uint8 and labels (N,) int32, read once, with a progress bar when
        that takes long.
        """
        return self.gather(np.arange(self.length), f"reading {self.name} {self.split}")

    def resident(self) -> "Dataset":
        """The same set with its images in memory."""
        images, labels = self.arrays()
        return dataclasses.replace(self, read=lambda rows: (images[rows], labels[rows]))

    def gather(self, indices: np.ndarray, progress: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of (B,) indices, read by all cores; ``progress`` titles a bar that
        comes after a while.
        """
        from tqdm import tqdm

        count = len(indices)
        images, labels = np.empty((count, *self.image_shape), np.uint8), np.empty(count, np.int32)
        threads = os.cpu_count() or 1
        chunk = max(1, min(_CHUNK, -(-count // threads)))

        def fill(start: int) -> int:
            rows = slice(start, min(start + chunk, count))
            batch = self.batch(indices[rows])
            images[rows], labels[rows] = batch["image"], batch["label"]
            return rows.stop - start

        bar = tqdm(total=count, desc=progress, unit="image", delay=2, disable=not progress)
        with bar, ThreadPoolExecutor(threads) as pool:
            for done in pool.map(fill, range(0, count, chunk)):
                bar.update(done)
        return images, labels


def digits(split: str) -> Dataset:
    """Scikit-learn's 1797 digits, 8x8x1, 0..16 scaled to 0..255: `train` the first 1500, `test` the
    rest.
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


def tfds(
    name: str,
    split: str,
    data_dir: str | None = None,
    size: tuple[int, int] | None = None,
    download: bool = True,
) -> Dataset:
    """A set of TensorFlow Datasets from its ArrayRecord files, downloaded and prepared where they
    are not there yet.

    The labels are its feature `label`, where it has one. Images are decoded by pillow; with `size`
    (H, W) they are resized and cropped by `images.center_crop`, without it the set has to declare
    one size.

    Args:
        name: as TFDS spells it: "cifar10", "name/config", "name:version", "name/config:version"; or
          "tiny_imagenet",
            made from the unpacked archive in data_dir, with the splits "train" and "val".
        split: one of the set's, sliced or not: "train", "train[:90%]".
        data_dir: the folder that holds prepared sets (TFDS's own, ~/tensorflow_datasets, where
          None).
        size: (H, W) to bring images to, or None.
        download: whether a missing set may be downloaded.

    Raises:
        InputError: no such set or split, a file format without random access, no network, images of
          different sizes.
    """
    import tensorflow_datasets

    from ddaepp_jax.data import prepare

    builder = prepare.prepared(name, data_dir)
    if builder is None and not download:
        raise InputError(
            f"data.data_dir: no prepared {name} in {data_dir}; allow the download or give its folder"
        )
    builder = builder or prepare.prepare(name, data_dir)
    (height, width, channels), names = _images_and_classes(builder, name, size)
    image, skip = tensorflow_datasets.features.Image, tensorflow_datasets.decode.SkipDecoding
    undecoded = {
        key: skip() for key, feature in builder.info.features.items() if isinstance(feature, image)
    }
    try:
        source = builder.as_data_source(split, decoders=undecoded)
    except NotImplementedError as error:
        raise InputError(
            f"data.data_dir: {builder.data_dir} holds {builder.info.file_format.value}, which has no random access; "
            "prepare it with file_format='array_record' or give another folder"
        ) from error
    except ValueError as error:
        raise InputError(
            f"data.split: {name} has no images for {split!r}; it has {', '.join(builder.info.splits)}"
        ) from error

    def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        examples: list[Any] = source.__getitems__([int(i) for i in indices])
        labels = np.array([example["label"] if names else 0 for example in examples], np.int32)
        images = [
            pixels.decode(example["image"], channels, size, f"image {i} of {name} {split}")
            for i, example in zip(indices, examples, strict=True)
        ]
        return np.stack(images), labels

    return Dataset(name, split, (height, width, channels), len(names), names, len(source), read)


def tfds_described(
    name: str, data_dir: str | None = None, size: tuple[int, int] | None = None
) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """(H, W, C) and class names of a set of TensorFlow Datasets, which need not be there.

    Raises:
        InputError: as ``tfds``, but for what concerns files and splits.
    """
    from ddaepp_jax.data import prepare

    return _images_and_classes(
        prepare.prepared(name, data_dir) or prepare.builder(name, data_dir), name, size
    )


def _images_and_classes(
    builder: Any, name: str, size: tuple[int, int] | None
) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    from tensorflow_datasets.core.features import ClassLabel, Image

    features = dict(builder.info.features.items())
    image, label = features.get("image"), features.get("label")
    if not isinstance(image, Image):
        raise InputError(
            f"data.name: {name} has no feature 'image' but {', '.join(features)}; use a set of images"
        )
    height, width, channels = image.shape
    if channels not in pixels.MODES or image.np_dtype != np.uint8:
        raise InputError(f"data.name: {name} has no 8-bit grey or colour images; use another set")
    if size is None and None in (height, width):
        raise InputError(
            f"data.size: {name} has images of different sizes; give the (height, width) to bring them to"
        )
    names = tuple(label.names) if isinstance(label, ClassLabel) else ()
    return (*(size or (height, width)), channels), names


def folder(path: str | Path, split: str, size: tuple[int, int] | None = None) -> Dataset:
    """A folder of png, jpg, jpeg, webp or bmp images, in sorted order.

    The layouts are path/split/class/*.png, or path/split/*.png without labels; where path has no
    folders of splits, path/class/*.png and path/*.png are the split "train". All splits take their
    classes from "train". Where grey and coloured images are mixed, all become RGB. Images are
    resized and cropped to `size` (H, W) by `images.center_crop`.

    Raises:
        InputError: no such folder or split, no images, one that cannot be read, different sizes and
          no `size`.
    """
    root = Path(path)
    classes, files, labels = _classes_and_files(root, _split_folder(root, split))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        shapes = list(pool.map(pixels.probe, files))
    odd = next((i for i, shape in enumerate(shapes) if shape[:2] != shapes[0][:2]), None)
    if size is None and odd is not None:
        (h0, w0, _), (h, w, _) = shapes[0], shapes[odd]
        raise InputError(
            f"data.size: {files[0]} is {h0}x{w0} and {files[odd]} {h}x{w}; give the (height, width) to bring them to"
        )
    channels = max(c for *_, c in shapes)

    def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images = [pixels.decode(files[i], channels, size, str(files[i])) for i in indices]
        return np.stack(images), labels[indices]

    return Dataset(
        str(path),
        split,
        (*(size or shapes[0][:2]), channels),
        len(classes),
        tuple(classes),
        len(files),
        read,
    )


def _split_folder(root: Path, split: str) -> Path:
    if not root.is_dir():
        raise InputError(f"data.data_dir: {root} is not a folder; give the folder of the images")
    if (root / split).is_dir():
        return root / split
    splits = [name for name in _folders(root) if name in _SPLITS]
    if splits or split != "train":
        have = (
            ", ".join(splits)
            if splits
            else "the split train only, as it has no folders named after splits"
        )
        raise InputError(f"data.split: {root} has no split {split!r}; it has {have}")
    return root


def _classes_and_files(root: Path, images: Path) -> tuple[list[str], list[Path], np.ndarray]:
    """Class names, image files and their labels (N,) int32 under the folder of a split."""
    own = _folders(images)
    loose = _images(images)
    if own and loose:
        raise InputError(
            f"data.data_dir: {images} has class folders and loose images ({loose[0].name}); move them"
        )
    # A split may lack a class; the labels still have to mean what they mean in training.
    classes = (_folders(root / "train") if (root / "train").is_dir() else own) if own else []
    if unknown := sorted(set(own) - set(classes)):
        raise InputError(
            f"data.split: {images} has a class {unknown[0]!r} unknown to {root / 'train'}; remove it"
        )
    found = (
        [(file, i) for i, name in enumerate(classes) for file in _images(images / name)]
        if own
        else []
    )
    files = loose or [file for file, _ in found]
    if not files:
        raise InputError(
            f"data.data_dir: {images} holds no {', '.join(sorted(_SUFFIXES))} images; give another folder"
        )
    return classes, files, np.array([i for _, i in found] or np.zeros(len(files)), np.int32)


def _folders(path: Path) -> list[str]:
    return sorted(
        entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )


def _images(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(entry for entry in path.iterdir() if entry.suffix.lower() in _SUFFIXES)
