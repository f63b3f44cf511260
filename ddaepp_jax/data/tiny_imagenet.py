"""Tiny-ImageNet as a set of TensorFlow Datasets, made from the folder of its archive.

Importing this module registers the set with TFDS; that import takes seconds, so it is done where
the set is prepared.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from ddaepp_jax.base.errors import InputError

FOLDER = "tiny-imagenet-200"  # what the archive unpacks to
_AGAIN = "unpack the archive again"

Files = list[tuple[Path, int]]


class TinyImagenet(tfds.core.GeneratorBasedBuilder):
    """200 classes of ImageNet at 64x64: `train`, 500 images a class, and `val`, 50; what `test`
    holds has no labels.

    Read from `tiny-imagenet-200/` in the folder where TFDS keeps its sets. The labels are in the
    order of the WordNet ids, as ImageNet's are. The JPEG files stay as they are, the few grey ones
    too: who decodes them asks for RGB.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> Any:
        image = tfds.features.Image(shape=(64, 64, 3), encoding_format="jpeg")
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {"image": image, "label": tfds.features.ClassLabel()}
            ),
            supervised_keys=("image", "label"),
            homepage="http://cs231n.stanford.edu",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        root = Path(self.data_dir_root) / FOLDER
        if not root.is_dir():
            raise InputError(
                f"data.data_dir: {root.parent} holds neither a prepared tiny_imagenet nor {FOLDER}; download "
                f"{FOLDER}.zip from its authors (cs231n.stanford.edu) and unpack it there"
            )
        wnids = sorted(_lines(root / "wnids.txt"))
        self.info.features["label"].names = _names(root / "words.txt", wnids)
        train, val = _train(root / "train", wnids), _val(root / "val", wnids)
        return {"train": self._generate_examples(train), "val": self._generate_examples(val)}

    def _generate_examples(self, files: Files) -> Iterator[tuple[str, dict[str, Any]]]:
        for file, label in files:
            yield file.name, {"image": file.read_bytes(), "label": label}


def _names(words: Path, wnids: list[str]) -> list[str]:
    """The first of the synonyms of each WordNet id; with the id, where two share it, as names have
    to differ.
    """
    synonyms = dict(line.split("\t", 1) for line in _lines(words) if "\t" in line)
    if unknown := [wnid for wnid in wnids if wnid not in synonyms]:
        raise InputError(f"{words} has no name for {unknown[0]}, which wnids.txt lists; {_AGAIN}")
    names = [synonyms[wnid].split(",")[0].strip() for wnid in wnids]
    count = Counter(names)
    return [
        name if count[name] == 1 else f"{name} ({wnid})"
        for name, wnid in zip(names, wnids, strict=True)
    ]


def _train(folder: Path, wnids: list[str]) -> Files:
    files = []
    for label, wnid in enumerate(wnids):
        images = sorted((folder / wnid / "images").glob("*.JPEG"))
        if not images:
            raise InputError(
                f"{folder / wnid / 'images'} holds no images, but wnids.txt lists {wnid}; {_AGAIN}"
            )
        files += [(image, label) for image in images]
    return files


def _val(folder: Path, wnids: list[str]) -> Files:
    annotations, images = folder / "val_annotations.txt", folder / "images"
    label, there = {wnid: i for i, wnid in enumerate(wnids)}, set(images.glob("*.JPEG"))
    files = []
    for line in _lines(annotations):
        name, wnid = (*line.split("\t"), "")[:2]  # a box follows
        if images / name not in there:
            raise InputError(f"{annotations} names {name}, which is not in {images}; {_AGAIN}")
        if wnid not in label:
            raise InputError(
                f"{annotations} gives {name} the class {wnid!r}, which wnids.txt does not list; {_AGAIN}"
            )
        files.append((images / name, label[wnid]))
    return files


def _lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        return [line for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); {_AGAIN}") from error
