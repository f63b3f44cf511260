"""Image shards as WebDataset has them: folders of tar files, see ``tar_index``."""

import itertools
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.data import images as pixels
from ddaepp_jax.data.datasets import Dataset, Shape, Size, Span
from ddaepp_jax.data.tar_index import NO_LABEL, Samples

CLASSES = "classes.txt"  # names of the classes, one a line
PROBED = 256  # images by which the shape of all is known

_TRAIN = "train"


def tars(data_dir: str | Path, split: str, size: Size | None = None) -> Dataset:
    """Opens a split of image shards.

    The shards are all .tar files in data_dir/split, or those in data_dir in whose names the split
    is a word: train-000000.tar, imagenet1k-train-0000.tar. The latter may differ in their numbers
    only.

    The names of the classes are the lines of ``CLASSES`` in data_dir. Without that file, they are
    "0", "1", .. up to the largest label of the split "train", or of this split if there is no such.

    If one of ``PROBED`` evenly spaced images is coloured, all become RGB; if not, grey. Images are
    decoded by ``images.decode``, and resized and cropped to ``size`` by ``images.center_crop``.

    Args:
      data_dir: the folder.
      split: name of the split.
      size: (H, W) to bring the images to; None keeps their size, which has to be the same.

    Raises:
      InputError: there are no such shards, or shards of several names; a shard is damaged; a sample
        has two images, a label that is no number, or none beside labelled ones; a label is outside
        the classes; or sizes differ and there is no ``size``. Reading raises it for an image that
        cannot be decoded.
    """
    root = Path(data_dir)
    kind, shards = _find(root, split)
    if not shards:
        raise _nothing(root, split)
    samples = Samples.of(shards, f"listing {root} {split}")
    class_names = _class_names(root, split, samples)
    shape = _shape(samples, size)
    labels = np.maximum(samples.places["label"], 0)

    def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        def decode(content: bytes, name: str) -> np.ndarray:
            return pixels.decode(content, shape, size is not None, name)

        return np.stack([samples.use(int(i), decode) for i in indices]), labels[indices]

    return Dataset(
        name=str(data_dir),
        split=split,
        image_shape=shape,
        num_classes=len(class_names),
        class_names=class_names,
        length=len(labels),
        read=read,
        folder=root,
        spans=(Span(kind, 0, len(labels)),),
        note=f"shards: {len(shards)} {kind}",
    )


# ---- Splits


def _find(root: Path, split: str) -> tuple[str, list[Path]]:
    """Returns the shards of a split in sorted order, and their name with # for numbers."""
    word = re.compile(rf"(?<![a-z]){re.escape(split)}(?![a-z])", re.IGNORECASE)
    inside = sorted((root / split).glob("*.tar"))
    beside = sorted(file for file in root.glob("*.tar") if word.search(file.stem))
    kinds = [f"{split}/*.tar"] * bool(inside) + sorted({_kind(file, root) for file in beside})
    if len(kinds) > 1:
        raise InputError(
            f"data.split: {root} has {', '.join(kinds[:3])} for {split!r}; move those that are not "
            "meant elsewhere"
        )
    return "".join(kinds), inside or beside


def _kind(file: Path, root: Path) -> str:
    """Returns a shard's name with # for its numbers, but not for that of imagenet1k."""
    return re.sub("[0-9]+(?![0-9a-z])", "#", str(file.relative_to(root)))


def _nothing(root: Path, split: str) -> InputError:
    """Returns the error of a folder without shards of a split."""
    files = itertools.chain(root.glob("*.tar"), root.glob("*/*.tar"))
    if found := sorted({_kind(file, root) for file in files}):
        return InputError(
            f"data.split: {root} has no shards of {split!r}, but {', '.join(found[:4])}; use a "
            f"split in these names, or name its shards {split}-000000.tar, .."
        )
    return InputError(
        f"data.data_dir: {root} holds no .tar files; give the folder of the shards, uncompressed"
    )


# ---- Classes and shape


def _class_names(root: Path, split: str, samples: Samples) -> tuple[str, ...]:
    """Returns the names of the classes; none if there are no labels."""
    labels = samples.places["label"]
    missing = np.flatnonzero(labels == NO_LABEL)
    if len(missing) == len(labels):
        return ()
    if len(missing):
        raise InputError(
            f"{samples.name(missing[0])} has no label, and others have one; add its .cls file "
            "directly beside it, or remove it"
        )
    listed = root / CLASSES
    if listed.is_file():
        text = listed.read_text(encoding="utf-8", errors="replace")
        names, origin = text.rstrip().splitlines(), str(listed)
    else:
        kind, train = _find(root, _TRAIN) if split != _TRAIN else ("", [])
        of = Samples.of(train, f"listing {root} {_TRAIN}").places["label"] if train else labels
        names, origin = [str(label) for label in range(of.max() + 1)], kind
    if labels.max() >= len(names):
        raise InputError(
            f"data.split: {samples.name(labels.argmax())} has the label {labels.max()}, and "
            f"{origin} has {len(names)} classes; list all in {listed}, one a line"
        )
    return tuple(names)


def _shape(samples: Samples, size: Size | None) -> Shape:
    """Returns (H, W, C) of the images, brought to ``size`` if there is one."""
    numbers = np.unique(np.linspace(0, len(samples.places) - 1, PROBED).astype(int)).tolist()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        shapes = list(pool.map(lambda number: samples.use(number, pixels.probe), numbers))
    height, width, _ = shapes[0]
    for number, shape in zip(numbers, shapes, strict=True):
        if size is None and shape[:2] != (height, width):
            raise InputError(
                f"data.size: {samples.name(0)} is {height}x{width} and {samples.name(number)} "
                f"{shape[0]}x{shape[1]}; give the (height, width) to bring them to"
            )
    return *(size or (height, width)), max(shape[2] for shape in shapes)
