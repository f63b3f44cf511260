"""Tiny-ImageNet: a tree of three classes with a few images, in the archive's layout."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.errors import expect_error
from PIL import Image

from ddaepp_jax.data import datasets
from ddaepp_jax.data.stream import stream

# In the order of wnids.txt, which differs from the labels'; two classes share their first name.
CLASSES = {
    "n02963159": "cardigan",
    "n01443537": "goldfish, Carassius auratus",
    "n02113186": "cardigan, Welsh corgi",
}
NAMES = ("goldfish", "cardigan (n02113186)", "cardigan (n02963159)")
LABELS = {wnid: i for i, wnid in enumerate(sorted(CLASSES))}

Pairs = list[tuple[bytes, int]]


def jpeg(rng: np.random.Generator, mode: str) -> tuple[bytes, np.ndarray]:
    """Encodes a random image as JPEG; returns the file's content and its pixels as RGB."""
    noise = rng.integers(0, 256, (64, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, "JPEG")
    return buffer.getvalue(), np.asarray(Image.open(buffer).convert("RGB"))


@pytest.fixture
def tree(tmp_path: Path) -> tuple[Path, dict[str, Pairs]]:
    """Writes an unpacked archive with two training images a class and three in val.

    Each split has one grey image.

    Returns:
      The archive's folder, and the (pixels, label) pairs of each split.
    """
    root = tmp_path / "tiny-imagenet-200"
    rng = np.random.default_rng(0)
    expected: dict[str, Pairs] = {"train": [], "val": []}

    def add(split: str, path: Path, wnid: str, mode: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content, pixels = jpeg(rng, mode)
        path.write_bytes(content)
        expected[split].append((pixels.tobytes(), LABELS[wnid]))

    annotations = []
    for i, wnid in enumerate(CLASSES):
        images = root / "train" / wnid / "images"
        add("train", images / f"{wnid}_0.JPEG", wnid, "L" if i == 1 else "RGB")
        add("train", images / f"{wnid}_1.JPEG", wnid, "RGB")
        add("val", root / "val" / "images" / f"val_{i}.JPEG", wnid, "L" if i == 0 else "RGB")
        annotations.append(f"val_{i}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(annotations))
    (root / "wnids.txt").write_text("\n".join(CLASSES) + "\n")
    words = {"n00001740": "entity", **CLASSES}
    (root / "words.txt").write_text("".join(f"{wnid}\t{name}\n" for wnid, name in words.items()))
    return root, expected


def pairs(images: np.ndarray, labels: np.ndarray) -> Pairs:
    return sorted(
        (image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)
    )


def test_both_splits_are_rgb_and_need_the_archive_only_once(
    tree: tuple[Path, dict[str, Pairs]],
) -> None:
    root, expected = tree
    train = datasets.tfds("tiny_imagenet", "train", str(root.parent))
    assert (train.image_shape, train.num_classes, train.class_names) == ((64, 64, 3), 3, NAMES)
    assert pairs(*train.arrays()) == sorted(expected["train"])
    shutil.rmtree(root)
    val = datasets.tfds("tiny_imagenet", "val", str(root.parent), download=False)
    assert val.class_names == NAMES
    assert pairs(*val.resident().arrays()) == sorted(expected["val"])
    (batch,) = stream(val, 0, 3, 0, 1, np.arange(3))
    assert pairs(batch["image"], batch["label"]) == sorted(expected["val"])
    assert "tensorflow" not in sys.modules
    (prepared,) = (root.parent / "tiny_imagenet").iterdir()
    assert len(datasets.tfds("tiny_imagenet", "val", str(prepared))) == 3
    with expect_error("data.split", "tiny_imagenet", "'test'", "train, val"):
        datasets.tfds("tiny_imagenet", "test", str(root.parent))


def test_without_the_archive_the_error_says_where_to_get_it(tmp_path: Path) -> None:
    with expect_error("data.data_dir", f"{tmp_path}", "tiny-imagenet-200.zip", "download"):
        datasets.tfds("tiny_imagenet", "train", str(tmp_path))


ANNOTATIONS = "val/val_annotations.txt"


@pytest.mark.parametrize(
    ("damage", "file", "word"),
    [
        (
            lambda root: shutil.rmtree(root / "train/n01443537"),
            "train/n01443537/images",
            "wnids.txt",
        ),
        (
            lambda root: (root / "words.txt").write_text("n01443537\tgoldfish"),
            "words.txt",
            "n02113186",
        ),
        (lambda root: (root / "val/images/val_1.JPEG").unlink(), ANNOTATIONS, "val_1.JPEG"),
        (lambda root: (root / ANNOTATIONS).write_text("val_0.JPEG\tn7"), ANNOTATIONS, "'n7'"),
        (lambda root: (root / "wnids.txt").unlink(), "wnids.txt", "read"),
    ],
    ids=["class", "name", "image", "label", "list"],
)
def test_a_damaged_archive_gives_one_line_and_leaves_nothing_behind(
    tree, damage, file: str, word: str
) -> None:
    root, _ = tree
    damage(root)
    with expect_error(f"{root / file}", word, "unpack"):
        datasets.tfds("tiny_imagenet", "train", str(root.parent))
    assert not list((root.parent / "tiny_imagenet").glob("*"))


def test_tfds_is_not_imported_before_a_set_is_opened() -> None:
    code = "import sys, ddaepp_jax.data.datasets, ddaepp_jax.data.prepare; "
    code += "sys.exit('tensorflow_datasets' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
