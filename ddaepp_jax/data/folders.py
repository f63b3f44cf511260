"""Folders of image files: which subfolders are splits or classes, and which images are held out.

Names alone decide. So what could be meant in two ways is refused, and ``Dataset.note`` says what
was taken for what, and what was left out.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.data import images as pixels
from ddaepp_jax.data.datasets import Dataset, Shape, Size
from ddaepp_jax.data.listing import Listing, images_below, listing

SPLITS = ("train", "val", "valid", "validation", "test")
ALL = "all"  # the split of all images of a folder without folders of splits
HELD_OUT = 10  # In such a folder, one of so many images of a class is of the split "test".

# Words that say a split, words that may stand beside them, and how a name falls into words.
_TRAIN = re.compile(r"train(s|ing)?(val|set|data|images)?")
_TEST = re.compile(r"(test|val|valid|validation|eval|evaluation|dev)(s|ing)?(set|data|images)?")
_BESIDE = {"set", "sets", "data", "dataset", "split", "folder", "image", "images", "imgs"}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


class _Content(NamedTuple):
    """The images of a directory.

    Attributes:
      class_names: names of the classes; empty without labels.
      files: N image files, by class and in sorted order.
      labels: (N,) int32.
      left_out: says what else is there; "" if nothing is.
    """

    class_names: list[str]
    files: list[Path]
    labels: np.ndarray
    left_out: str


def folder(
    path: str | Path, split: str, size: Size | None = None, field: str = "data.data_dir"
) -> Dataset:
    """Opens a split of a folder of image files, in sorted order.

    The layout is path/split/class/*.png, or path/split/*.png without labels. The splits' names are
    ``SPLITS``, in upper or lower case. All splits take their classes from "train".

    If path has no such folders, path/class/*.png or path/*.png is divided. The split "test" is a
    tenth of each class, but at least one of two or more images; "train" is the rest, and "all" is
    both. A hash of the files' names chooses, so the parts stay the same while the files do.

    A mixture of grey and coloured images becomes RGB. Images are decoded by ``images.decode``, and
    resized and cropped to ``size`` (H, W) by ``images.center_crop``.

    Args:
      path: the folder.
      split: name of a split, or of another subfolder that is taken as one.
      size: (H, W) to bring the images to; None keeps their size.
      field: name of the field or argument that gave the path, for errors.

    Raises:
      InputError: there is no such folder or split, the subfolders could be understood in two ways,
        a class has no images, one cannot be read, or sizes differ and there is no ``size``.
    """
    root = Path(path)
    top = listing(root, field)
    directory = _split_folder(top, root, split, field)
    if directory is not None:
        content = _content(directory, _classes_from(top, directory), field)
        rows = np.arange(len(content.files))
        beside = f"{len(top.images)} images beside the splits are left out" if top.images else ""
        notes = [f"from {directory}", beside, content.left_out]
    else:
        content = _content(root, root, field)
        rows, note = _part(content, root, split)
        notes = [note, content.left_out]
    shape = _shape(content.files, size)
    files = tuple(content.files[row] for row in rows)
    labels = content.labels[rows]

    def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images = [pixels.decode(files[i], shape, size is not None, str(files[i])) for i in indices]
        return np.stack(images), labels[indices]

    return Dataset(
        name=str(path),
        split=split,
        image_shape=shape,
        num_classes=len(content.class_names),
        class_names=tuple(content.class_names),
        length=len(files),
        read=read,
        folder=root,
        files=files,
        note="; ".join(filter(None, notes)),
    )


# ---- Splits


def _split_folder(top: Listing, root: Path, split: str, field: str) -> Path | None:
    """Returns the folder of a split, or None if there are no folders of splits.

    Args:
      top: the content of ``root``.
      root: the folder of all images.
      split: name of the split.
      field: name of the field that gave the root.
    """
    splits = _splits(top)
    named = [entry for entry in top.folders if entry.name == split != ALL]
    directory = splits.get(split.lower(), *named)
    if directory is None and splits:
        names = ", ".join(sorted(splits))
        if split.lower() == ALL:
            raise InputError(f"{field}: {root} has the splits {names}; give the folder of one")
        whole = f", or give {next(iter(splits.values()))}, of which a tenth is then held out"
        raise InputError(
            f"data.split: {root} has no split {split!r}; use one of {names}"
            f"{whole if len(splits) == 1 else ''}"
        )
    if directory is None:
        _check_no_splits(top, root, field)
        return None
    others = [entry for entry in top.folders if entry not in splits.values()]
    if directory not in others and (others := [o for o in others if any(images_below(o))]):
        raise InputError(
            f"{field}: {root} holds {directory.name}, which is a split's name, beside "
            f"{_some(others)}; move what is no split elsewhere, or rename {directory.name} if it "
            "is a class"
        )
    return directory


def _splits(top: Listing) -> dict[str, Path]:
    """Returns the folders that are named after splits, by their names in lower case."""
    return {entry.name.lower(): entry for entry in top.folders if entry.name.lower() in SPLITS}


def _classes_from(top: Listing, directory: Path) -> Path:
    """Returns the folder of the split that says which classes there are."""
    splits = _splits(top)
    return splits.get("train") or min(splits.values(), default=directory)


def _check_no_splits(top: Listing, root: Path, field: str) -> None:
    """Refuses folders whose names are nearly those of splits, as classes."""
    words = {entry: [word.lower() for word in _WORD.findall(entry.name)] for entry in top.folders}
    train = [entry for entry in words if any(map(_TRAIN.fullmatch, words[entry]))]
    test = [entry for entry in words if any(map(_TEST.fullmatch, words[entry]))]
    near = list(dict.fromkeys(train + test))
    if not (train and test):  # A class may be called bullet_train.
        near = [entry for entry in near if sum(word not in _BESIDE for word in words[entry]) == 1]
    if near:
        raise InputError(
            f"{field}: {root} holds {_some(near)}; a split is called {', '.join(SPLITS)}, so "
            "rename it, or set data.split to its name; a class must not look like one, so rename it"
        )


def _part(content: _Content, root: Path, split: str) -> tuple[np.ndarray, str]:
    """Returns the rows (R,) of a part of all images, and a note that says how it was divided."""
    test = _held_out(content)
    parts = {"train": ~test, "test": test, ALL: np.ones_like(test)}
    if split.lower() not in parts:
        raise InputError(
            f"data.split: {root} has no split {split!r}; use one of {', '.join(parts)}, as no "
            "subfolders are named after splits"
        )
    rows = np.flatnonzero(parts[split.lower()])
    if not len(rows):
        raise InputError(
            f"data.split: {root} is too small to hold out images as {split!r}; add images, or use "
            f"{ALL}, which holds the training images too"
        )
    if split.lower() == ALL:
        return rows, ""
    of = "each class" if content.class_names else "the images"
    return rows, f"the split test is a fixed tenth of {of}, {test.sum()} of {len(test)} images"


def _held_out(content: _Content) -> np.ndarray:
    """Returns which images are of the split "test" of a folder without splits, (N,) bool."""
    test = np.zeros(len(content.files), bool)
    hashes = [hashlib.blake2b(os.fsencode(file.name)).digest() for file in content.files]
    for label in range(max(len(content.class_names), 1)):
        rows = np.flatnonzero(content.labels == label)
        count = max(len(rows) // HELD_OUT, min(len(rows) - 1, 1))
        test[sorted(rows, key=hashes.__getitem__)[:count]] = True
    return test


# ---- Classes and images


def _content(directory: Path, reference: Path, field: str) -> _Content:
    """Lists the classes and images of a split.

    Args:
      directory: the split's folder.
      reference: the folder of the split that says which classes there are.
      field: name of the field that gave the folder.
    """
    here = listing(directory, field)
    if here.images and (mixed := [each for each in here.folders if any(images_below(each))]):
        raise InputError(
            f"{field}: {directory} has class folders ({mixed[0].name}) and loose images "
            f"({here.images[0].name}); move the loose images"
        )
    inside = {} if here.images else {each.name: listing(each, field) for each in here.folders}
    empty = [name for name, each in inside.items() if not each.images]
    if len(empty) == len(inside) and not here.images:
        raise InputError(
            f"{field}: {directory} holds no images ({', '.join(sorted(pixels.SUFFIXES))})"
            f"{_deeper(here.folders)}; give the folder of the images, or of their classes"
        )
    if directory == reference:
        class_names = list(inside)
        if empty:
            raise InputError(
                f"{field}: the class folder {directory / empty[0]} holds no images"
                f"{_deeper([directory / empty[0]])}; remove it, or put its images directly into it"
            )
    else:
        class_names = _shared_classes(directory, list(inside), reference, field)
    classes = [inside[name].images if name in inside else [] for name in class_names]
    labels = np.repeat(np.arange(len(classes)), [len(images) for images in classes])
    return _Content(
        class_names,
        files=here.images + [file for images in classes for file in images],
        labels=np.zeros(len(here.images), np.int32) if here.images else labels.astype(np.int32),
        left_out=_left_out([here, *inside.values()]),
    )


def _shared_classes(directory: Path, names: list[str], reference: Path, field: str) -> list[str]:
    """Returns the classes of the reference, which a split with the classes ``names`` shares.

    A split may lack a class, but its labels have to mean the same as in training.
    """
    top = listing(reference, field)
    shared = [] if top.images else [entry.name for entry in top.folders]
    if unknown := sorted(set(names) - set(shared)):
        raise InputError(
            f"data.split: {directory} has a class {unknown[0]!r} that {reference} lacks; remove it"
        )
    if shared and not names:
        raise InputError(
            f"data.split: {directory} has loose images, but {reference} has class folders; "
            "sort the images into folders of these classes"
        )
    return shared


def _left_out(listings: Sequence[Listing]) -> str:
    """Says what beside the images lies in the folders of a split and its classes."""
    deeper = sum(1 for each in listings[1:] for below in each.folders for _ in images_below(below))
    others: Counter[str] = sum((each.others for each in listings), Counter())
    parts = [f"{deeper} images in deeper folders"] if deeper else []
    for suffix, count in others.most_common(5):
        shown = suffix if suffix.isprintable() else ascii(suffix)
        parts.append(f"{count} {shown or 'without suffix'}")
    if rest := others.total() - sum(count for _, count in others.most_common(5)):
        parts.append(f"{rest} others")
    return f"left out: {', '.join(parts)}" if parts else ""


def _deeper(folders: Sequence[Path]) -> str:
    count = sum(1 for each in folders for _ in images_below(each))
    return f", but {count} lie deeper" if count else ""


def _some(folders: Sequence[Path]) -> str:
    """Names at most three folders."""
    return ", ".join(each.name for each in folders[:3]) + (", .." if len(folders) > 3 else "")


def _shape(files: Sequence[Path], size: Size | None) -> Shape:
    """Returns (H, W, C) of the images, brought to ``size`` if there is one."""

    def probe(file: Path) -> Shape | InputError:
        try:
            return pixels.probe(file)
        except InputError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        shapes = list(pool.map(probe, files))
    if errors := [shape for shape in shapes if isinstance(shape, InputError)]:
        others = f", and {len(errors) - 1} more files like it" if errors[1:] else ""
        raise InputError(f"{errors[0]}{others}") from errors[0]
    height, width, _ = shapes[0]
    for file, shape in zip(files, shapes, strict=True):
        if size is None and shape[:2] != (height, width):
            raise InputError(
                f"data.size: {files[0]} is {height}x{width} and {file} {shape[0]}x{shape[1]}; "
                "give the (height, width) to bring them to"
            )
    return *(size or (height, width)), max(shape[2] for shape in shapes)
