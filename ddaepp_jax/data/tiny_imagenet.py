"""Tiny-ImageNet as a set of TensorFlow Datasets, made from the folder of its unpacked archive.

Importing this module registers the set with TFDS. The import takes seconds, so it is done only
where the set is prepared.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from ddaepp_jax.base.errors import InputError

FOLDER = "tiny-imagenet-200"  # folder in the archive
_MEND = "unpack the archive again"

Files = list[tuple[Path, int]]


class TinyImagenet(tfds.core.GeneratorBasedBuilder):
    """200 classes of ImageNet at 64x64: 500 images a class in `train` and 50 in `val`.

    The archive's `test` has no labels and is left out. The set is read from `tiny-imagenet-200/` in
    the folder where TFDS keeps its sets. Labels are in the order of the WordNet ids, as ImageNet's
    are. The JPEG files stay as they are, including the few grey ones: readers decode them as RGB.
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
                f"data.data_dir: {root.parent} holds neither a prepared tiny_imagenet nor {FOLDER};"
                f" download {FOLDER}.zip from its authors (cs231n.stanford.edu) and unpack it there"
            )
        wnids = sorted(_lines(root / "wnids.txt"))
        self.info.features["label"].names = _class_names(root / "words.txt", wnids)
        files = {"train": _train(root / "train", wnids), "val": _val(root / "val", wnids)}
        return {split: self._generate_examples(part) for split, part in files.items()}

    def _generate_examples(self, files: Files) -> Iterator[tuple[str, dict[str, Any]]]:
        for file, label in files:
            yield file.name, {"image": file.read_bytes(), "label": label}


def _class_names(words: Path, wnids: list[str]) -> list[str]:
    """Returns the first synonym of each WordNet id.

    Names have to differ, so the id is added where two share a name.
    """
    synonyms = dict(line.split("\t", 1) for line in _lines(words) if "\t" in line)
    if unknown := [wnid for wnid in wnids if wnid not in synonyms]:
        raise InputError(f"{words} has no name for {unknown[0]}, which wnids.txt lists; {_MEND}")
    names = [synonyms[wnid].split(",")[0].strip() for wnid in wnids]
    count = Counter(names)
    return [
        name if count[name] == 1 else f"{name} ({wnid})"
        for name, wnid in zip(names, wnids, strict=True)
    ]


def _train(folder: Path, wnids: list[str]) -> Files:
    """Lists the training images and their labels."""
    files = []
    for label, wnid in enumerate(wnids):
        images = sorted((folder / wnid / "images").glob("*.JPEG"))
        if not images:
            raise InputError(
                f"{folder / wnid / 'images'} holds no images, but wnids.txt lists {wnid}; {_MEND}"
            )
        files += [(image, label) for image in images]
    return files


def _val(folder: Path, wnids: list[str]) -> Files:
    """Lists the validation images and their labels."""
    annotations = folder / "val_annotations.txt"
    images = set((folder / "images").glob("*.JPEG"))
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    files = []
    for line in _lines(annotations):
        name, wnid = (*line.split("\t"), "")[:2]  # a bounding box follows
        image = folder / "images" / name
        if image not in images:
            raise InputError(f"{annotations} names {name}, which is not in {image.parent}; {_MEND}")
        if wnid not in labels:
            raise InputError(
                f"{annotations} gives {name} the class {wnid!r}, which wnids.txt does not list; "
                f"{_MEND}"
            )
        files.append((image, labels[wnid]))
    return files


def _lines(path: Path) -> list[str]:
    """Reads the lines of a text file that are not empty."""
    try:
        return [line for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); {_MEND}") from error
