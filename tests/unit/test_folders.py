"""Folders of images: their splits, classes and held-out images, and what is left out or refused."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.errors import expect_error
from PIL import Image

from ddaepp_jax.data import folders
from ddaepp_jax.data.datasets import Dataset

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, np.uint8)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def fill(root: Path, *names: str, count: int = 2) -> Path:
    """Writes ``count`` images into each of the folders ``names`` of ``root``."""
    for name in names:
        for i in range(count):
            save(root / name / f"{i}.png", noise(4, 4, 3))
    return root


def names(data: Dataset) -> list[str]:
    return [file.relative_to(data.folder).as_posix() for file in data.files]


def test_a_folder_of_classes_in_sorted_order(tmp_path: Path) -> None:
    arrays = {
        "train/dog/b.png": noise(5, 4, 3),
        "train/dog/a.bmp": noise(5, 4, 3),
        "train/cat/z.PNG": noise(5, 4, 3),
    }
    for name, array in (arrays | {"test/dog/q.png": noise(5, 4, 3)}).items():
        save(tmp_path / name, array)
    train = folders.folder(tmp_path, "train")
    assert (train.class_names, train.num_classes, train.image_shape, len(train)) == (
        ("cat", "dog"),
        2,
        (5, 4, 3),
        3,
    )
    pixels, labels = train.arrays()
    np.testing.assert_array_equal(pixels, np.stack([arrays[k] for k in sorted(arrays)]))
    assert labels.tolist() == [0, 1, 1] and names(train) == sorted(arrays)
    _, labels = folders.folder(tmp_path, "test").arrays()
    assert labels.tolist() == [1]  # the split has no cat, but a dog keeps its label


def test_a_folder_is_identified_by_its_resolved_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "pets/0.png", noise(2, 2))
    monkeypatch.chdir(tmp_path)
    train = folders.folder("pets", "train")
    assert (train.name, train.identity) == ("pets", str((tmp_path / "pets").resolve()))


# ---- Splits


def test_splits_are_named_in_upper_or_lower_case(tmp_path: Path) -> None:
    fill(tmp_path, "Train/cat", "Train/dog", "VAL/dog")
    train, val = (folders.folder(tmp_path, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (4, 2) and val.class_names == ("cat", "dog")
    assert train.described == (
        f"{tmp_path} train: 4 images of 4x4x3 in 2 classes (cat, dog); from {tmp_path / 'Train'}"
    )
    with expect_error("data.split", "'test'", "train, val"):
        folders.folder(tmp_path, "test")
    with expect_error("--images", "train, val"):
        folders.folder(tmp_path, "all", field="--images")


def test_a_split_without_a_train_folder_takes_its_classes_from_the_first(tmp_path: Path) -> None:
    fill(tmp_path, "test/cat", "test/dog", "val/dog")
    assert folders.folder(tmp_path, "val").arrays()[1].tolist() == [1, 1]
    with expect_error("data.split", "'train'", "test, val"):
        folders.folder(tmp_path, "train")


@pytest.mark.parametrize("other", ["bus", "unlabeled", "testing", "a/deep"])
def test_a_split_beside_folders_that_are_none_is_refused(tmp_path: Path, other: str) -> None:
    fill(tmp_path, "train", other)
    with expect_error("data.data_dir", "train", other[:5].split("/")[0], "rename"):
        folders.folder(tmp_path, "train")


def test_a_folder_without_images_may_stand_beside_splits(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/train.xml").write_text("no image")
    assert len(folders.folder(tmp_path, "train")) == 2


@pytest.mark.parametrize(
    "near",
    [
        ["training", "testing"],
        ["trainset"],
        ["Validation-Set", "cats"],
        ["tests", "dog"],
        ["Train Data"],
        ["train2017", "cats"],
        ["trainval"],
        ["eval", "cat"],
        ["seg_train", "seg_test"],
        ["trainA", "testA"],
        ["catsTrain", "catsTest"],
    ],
)
def test_names_that_are_nearly_those_of_splits_are_refused(tmp_path: Path, near: list[str]) -> None:
    fill(tmp_path, *near, count=1)
    with expect_error("data.data_dir", near[0], "rename", "data.split"):
        folders.folder(tmp_path, "train")
    assert len(folders.folder(tmp_path, near[0])) == 1


def test_a_class_may_have_the_name_of_a_split_in_its_name(tmp_path: Path) -> None:
    fill(tmp_path, "bullet_train", "dog")
    assert folders.folder(tmp_path, "train").class_names == ("bullet_train", "dog")


# ---- Folders without splits


def held_out(path: Path) -> set[str]:
    return set(names(folders.folder(path, "test")))


def test_a_folder_of_classes_holds_out_a_tenth_of_each(tmp_path: Path) -> None:
    fill(tmp_path / "pets", "cat", "dog", count=40)
    fill(tmp_path / "pets", "few", count=3)
    fill(tmp_path / "pets", "one", count=1)
    train, test, whole = (
        folders.folder(tmp_path / "pets", split) for split in ("train", "test", "all")
    )
    assert np.bincount(test.arrays()[1]).tolist() == [4, 4, 1]  # of one image none is held out
    assert np.bincount(train.arrays()[1]).tolist() == [36, 36, 2, 1]
    assert sorted(names(train) + names(test)) == names(whole) and len(whole) == 84
    assert train.class_names == test.class_names == ("cat", "dog", "few", "one")
    assert "a fixed tenth of each class, 9 of 84 images" in train.described
    assert (train.shared(test), train.shared(whole), whole.shared(test)) == (0, 75, 9)
    before = held_out(tmp_path / "pets")
    assert before == held_out((tmp_path / "pets").rename(tmp_path / "moved"))
    fill(tmp_path / "moved", "new")
    assert before < held_out(tmp_path / "moved")
    with expect_error("data.split", "'val'", "train, test, all"):
        folders.folder(tmp_path / "moved", "val")


def test_the_same_images_are_held_out_for_ever(tmp_path: Path) -> None:
    fill(tmp_path, ".", count=20)
    assert held_out(tmp_path) == {"15.png", "4.png"}


def test_loose_images_have_no_labels(tmp_path: Path) -> None:
    array = noise(2, 3)
    save(tmp_path / "1.png", array)
    train = folders.folder(tmp_path, "train")
    assert (train.num_classes, train.class_names, train.image_shape) == (0, (), (2, 3, 1))
    pixels, labels = train.arrays()
    np.testing.assert_array_equal(pixels[0, ..., 0], array)
    assert labels.tolist() == [0]
    with expect_error("data.split", f"{tmp_path}", "'test'", "all"):
        folders.folder(tmp_path, "test")


def test_parts_have_the_same_shape(tmp_path: Path) -> None:
    """A single coloured image makes both parts coloured, wherever it is."""
    fill(tmp_path, ".", count=1)
    for i in range(1, 20):
        save(tmp_path / f"{i}.png", noise(4, 4))
    shapes = {folders.folder(tmp_path, split).image_shape for split in ("train", "test", "all")}
    assert shapes == {(4, 4, 3)}


# ---- What is left out, and what is refused


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat", "train/dog", "train/dog/deep/deeper", "train/cat/.hidden")
    save(tmp_path / "loose.png", noise(4, 4))
    for name in ("cat/a.txt", "cat/b.TXT", "dog/c.heic", "dog/README", "dog/a.\n", "cat/.DS_Store"):
        (tmp_path / "train" / name).write_text("no image")
    for name in ("cat/._0.png", "dog/Thumbs.db", "dog/desktop.ini"):
        (tmp_path / "train" / name).write_bytes(b"junk of a system")
    for name in ("__MACOSX/cat", ".ipynb_checkpoints", "@eaDir", "lost+found"):
        fill(tmp_path / "train", name, count=1)
        fill(tmp_path, name, count=1)
    train = folders.folder(tmp_path, "train")
    assert (len(train), train.class_names) == (4, ("cat", "dog"))
    assert train.note == (
        f"from {tmp_path / 'train'}; 1 images beside the splits are left out; "
        "left out: 2 images in deeper folders, 2 .txt, 1 without suffix, 1 '.\\n', 1 .heic"
    )


def test_a_folder_whose_name_is_no_text_is_described(tmp_path: Path) -> None:
    root = fill(tmp_path / os.fsdecode(b"caf\xe9"), ".")
    assert "caf\\udce9 train: 1 image of" in folders.folder(root, "train").described


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        (".tif", "TIFF"),
        (".TIFF", "TIFF"),
        (".gif", "GIF"),
        (".jfif", "JPEG"),
        (".jpe", "JPEG"),
        (".ppm", "PPM"),
        (".pgm", "PPM"),
        (".pbm", "PPM"),
        (".webp", "WEBP"),
    ],
)
def test_files_of_many_formats_are_read(tmp_path: Path, suffix: str, kind: str) -> None:
    modes = {".pgm": "L", ".pbm": "1"}
    image = Image.new("RGB", (4, 4), "white").convert(modes.get(suffix, "RGB"))
    image.save(tmp_path / f"0{suffix}", kind)
    pixels, _ = folders.folder(tmp_path, "all").arrays()
    assert len(pixels) == 1 and pixels.min() >= 254


def test_a_class_without_images_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog/deeper")
    with expect_error("data.data_dir", f"{tmp_path / 'dog'}", "2 lie deeper", "directly"):
        folders.folder(tmp_path, "train")
    (tmp_path / "cat").rename(tmp_path / "dog/cat")
    with expect_error("data.data_dir", f"{tmp_path}", ".bmp", "4 lie deeper"):
        folders.folder(tmp_path, "train")
    fill(tmp_path / "split", "train/cat", "test/cat")
    (tmp_path / "split/test/dog").mkdir()
    with expect_error("data.split", "class 'dog'"):
        folders.folder(tmp_path / "split", "test")
    (tmp_path / "split/train/dog").mkdir()
    assert folders.folder(tmp_path / "split", "test").class_names == ("cat", "dog")
    with expect_error("data.data_dir", f"{tmp_path / 'split/train/dog'}", "no images"):
        folders.folder(tmp_path / "split", "train")


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    with expect_error("data.data_dir", f"{tmp_path / 'none'}", "not a folder"):
        folders.folder(tmp_path / "none", "train")
    with expect_error("--images", f"{tmp_path}", ".bmp"):
        folders.folder(tmp_path, "all", field="--images")
    with expect_error("data.data_dir", "too long"):
        folders.folder("x" * 300, "train")
    fill(tmp_path, "train/dog", "test/cat")
    with expect_error("data.split", "class 'cat'"):
        folders.folder(tmp_path, "test")
    save(tmp_path / "train/0.png", noise(4, 4))
    with expect_error("data.data_dir", "loose", "0.png"):
        folders.folder(tmp_path, "train")


def test_splits_have_all_labels_or_none(tmp_path: Path) -> None:
    fill(tmp_path / "a", "train/dog", "test")
    with expect_error("data.split", "loose", f"{tmp_path / 'a/train'}"):
        folders.folder(tmp_path / "a", "test")
    fill(tmp_path / "b", "train", "test/dog")
    with expect_error("data.split", "class 'dog'"):
        folders.folder(tmp_path / "b", "test")


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ("Cat", "cat", ["case"]),
        ("train/\u00e9", "train/e\u0301", ["coding"]),
        ("Train/a", "train/a", ["case"]),
        ("a\nb", "cat", ["'a\\nb'"]),
        (os.fsdecode(b"caf\xe9"), "cat", ["'caf\\udce9'"]),
    ],
)
def test_names_that_cannot_be_told_apart_or_printed_are_refused(
    tmp_path: Path, one: str, other: str, words: list[str]
) -> None:
    fill(tmp_path, one, other)
    with expect_error("data.data_dir", *words, "rename"):
        folders.folder(tmp_path, "train")


def test_classes_and_files_may_be_named_in_any_script(tmp_path: Path) -> None:
    fill(tmp_path, "кот", "猫 cat", "می‌خواهم")
    save(tmp_path / "кот" / os.fsdecode(b"caf\xe9.png"), noise(4, 4, 3))
    whole = folders.folder(tmp_path, "all")
    assert len(whole.arrays()[0]) == 7 and "猫 cat" in whole.described


@pytest.mark.parametrize(
    "make", [lambda path: path.symlink_to("nowhere"), os.mkfifo], ids=["broken link", "pipe"]
)
def test_an_image_that_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    fill(tmp_path, ".", count=1)
    make(tmp_path / "x.png")
    with expect_error(f"{tmp_path / 'x.png'}", "no file", "remove"):
        folders.folder(tmp_path, "train")


def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with expect_error("data.data_dir", f"{tmp_path}", "Permission denied"):
        folders.folder(tmp_path, "train")


def test_unreadable_images_are_named_and_counted(tmp_path: Path) -> None:
    save(tmp_path / "a/good.png", noise(64, 64, 3))
    content = (tmp_path / "a/good.png").read_bytes()
    (tmp_path / "a/short.png").write_bytes(content[: len(content) // 2])
    with expect_error(f"{tmp_path / 'a/short.png'}", "image"):
        folders.folder(tmp_path, "all").arrays()
    for name in ("text.png", "text.tif", "zero.jpg"):
        (tmp_path / "a" / name).write_bytes(b"" if name == "zero.jpg" else b"hello")
    with expect_error(f"{tmp_path / 'a/text.png'}", "image", "and 2 more"):
        folders.folder(tmp_path, "all")


def test_images_of_different_sizes_need_a_size(tmp_path: Path) -> None:
    save(tmp_path / "a/0.png", noise(8, 8, 3))
    save(tmp_path / "a/1.png", noise(9, 8, 3))
    with expect_error("data.size", "0.png", "8x8", "1.png", "9x8"):
        folders.folder(tmp_path, "train")
    assert folders.folder(tmp_path, "all", (4, 6)).arrays()[0].shape == (2, 4, 6, 3)


def test_an_image_that_changed_since_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, ".", count=2)
    whole = folders.folder(tmp_path, "all")
    save(tmp_path / "1.png", noise(1, 1, 3))
    with expect_error(f"{tmp_path / '1.png'}", "1x1", "4x4"):
        whole.arrays()
