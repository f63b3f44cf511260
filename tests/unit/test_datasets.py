"""Digits, image folders and TensorFlow Datasets: their images, labels, identity and errors."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets
from helpers.errors import expect_error
from PIL import Image

from ddaepp_jax.data import datasets, images
from ddaepp_jax.data.augment import to_float

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, np.uint8)


def save(path: Path, array: np.ndarray, **kwargs: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **kwargs)


# ---- digits


def test_digits_have_the_full_range_and_two_splits() -> None:
    train, test = datasets.digits("train"), datasets.digits("test")
    assert (len(train), len(test), train.nbytes) == (1500, 297, 1500 * 64)
    pixels, labels = train.arrays()
    assert (
        pixels.shape == (1500, *train.image_shape)
        and pixels.dtype == np.uint8
        and labels.dtype == np.int32
    )
    assert (pixels.min(), pixels.max()) == (0, 255) and set(labels) == set(range(10)) == set(
        range(train.num_classes)
    )
    assert set(np.unique(pixels)) == {round(i * 255 / 16) for i in range(17)}
    assert train.identity == train.resident().identity == "digits"
    batch = train.batch(np.array([7, 3, 7]))
    assert batch["index"].dtype == np.int32
    np.testing.assert_array_equal(batch["image"], pixels[[7, 3, 7]])
    np.testing.assert_array_equal(batch["label"], labels[[7, 3, 7]])
    with expect_error("data.split", "'val'", "train", "test"):
        datasets.digits("val")


def test_a_label_out_of_range_is_an_error() -> None:
    labels = np.array([0, 1, -1, 0], np.int32)
    bad = datasets.Dataset(
        "bad", "test", (1, 1, 1), 2, ("a", "b"), 4, lambda i: (noise(len(i), 1, 1, 1), labels[i])
    )
    assert bad.batch(np.array([1, 3]))["label"].tolist() == [1, 0]
    with expect_error("data.split", "image 2", "-1"):
        bad.arrays()


# ---- image folders


def test_a_folder_of_classes_in_sorted_order(tmp_path: Path) -> None:
    arrays = {
        "train/dog/b.png": noise(5, 4, 3),
        "train/dog/a.bmp": noise(5, 4, 3),
        "train/cat/z.PNG": noise(5, 4, 3),
    }
    for name, array in (arrays | {"test/dog/q.png": noise(5, 4, 3)}).items():
        save(tmp_path / name, array)
    (tmp_path / "train/cat/notes.txt").write_text("no image")
    (tmp_path / "train/.hidden").mkdir()
    train = datasets.folder(tmp_path, "train")
    assert (train.class_names, train.num_classes, train.image_shape, len(train)) == (
        ("cat", "dog"),
        2,
        (5, 4, 3),
        3,
    )
    pixels, labels = train.arrays()
    np.testing.assert_array_equal(pixels, np.stack([arrays[k] for k in sorted(arrays)]))
    assert labels.tolist() == [0, 1, 1]
    _, labels = datasets.folder(tmp_path, "test").arrays()
    assert labels.tolist() == [1]  # the split has no cat, but a dog keeps its label


def test_a_folder_is_identified_by_its_resolved_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "pets/0.png", noise(2, 2))
    monkeypatch.chdir(tmp_path)
    train = datasets.folder("pets", "train")
    assert (train.name, train.identity) == ("pets", str((tmp_path / "pets").resolve()))


def test_a_flat_folder_is_the_train_split_without_labels(tmp_path: Path) -> None:
    array = noise(2, 3)
    save(tmp_path / "1.png", array)
    train = datasets.folder(tmp_path, "train")
    assert (train.num_classes, train.class_names, train.image_shape) == (0, (), (2, 3, 1))
    pixels, labels = train.arrays()
    np.testing.assert_array_equal(pixels[0, ..., 0], array)
    assert labels.tolist() == [0]
    with expect_error("data.split", f"{tmp_path}", "'test'", "train"):
        datasets.folder(tmp_path, "test")


def test_mixed_colours_become_rgb(tmp_path: Path) -> None:
    grey, colour = noise(4, 4), noise(4, 4, 3)
    save(tmp_path / "a/grey.png", grey)
    save(tmp_path / "a/rgb.png", colour)
    save(tmp_path / "a/rgba.png", np.concatenate([colour, noise(4, 4, 1)], 2))
    Image.fromarray(colour).quantize(8).save(tmp_path / "a/zpalette.png", transparency=b"\x00\x80")
    pixels, _ = datasets.folder(tmp_path, "train").arrays()
    np.testing.assert_array_equal(pixels[0], np.repeat(grey[..., None], 3, 2))
    np.testing.assert_array_equal(pixels[1], colour)
    np.testing.assert_array_equal(pixels[2], colour)
    assert pixels.shape == (4, 4, 4, 3)


def test_images_of_different_sizes_need_a_size(tmp_path: Path) -> None:
    save(tmp_path / "a/0.png", noise(8, 8, 3))
    save(tmp_path / "a/1.png", noise(9, 8, 3))
    with expect_error("data.size", "0.png", "8x8", "1.png", "9x8"):
        datasets.folder(tmp_path, "train")
    assert datasets.folder(tmp_path, "train", (4, 6)).arrays()[0].shape == (2, 4, 6, 3)


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    save(tmp_path / "a/good.png", noise(64, 64, 3))
    content = (tmp_path / "a/good.png").read_bytes()
    (tmp_path / "a/short.png").write_bytes(content[: len(content) // 2])
    with expect_error(f"{tmp_path / 'a/short.png'}", "image"):
        datasets.folder(tmp_path, "train").arrays()
    (tmp_path / "a/zero.jpg").write_bytes(b"")
    with expect_error(f"{tmp_path / 'a/zero.jpg'}", "image"):
        datasets.folder(tmp_path, "train")
    (tmp_path / "a/zero.jpg").unlink()
    save(tmp_path / "a/deep.png", RNG.integers(0, 2**16, (4, 4), np.uint16))
    with expect_error(f"{tmp_path / 'a/deep.png'}", "8 bits"):
        datasets.folder(tmp_path, "train")


def test_folders_with_another_layout_are_refused(tmp_path: Path) -> None:
    with expect_error("data.data_dir", f"{tmp_path / 'none'}", "not a folder"):
        datasets.folder(tmp_path / "none", "train")
    with expect_error("data.data_dir", f"{tmp_path}", ".bmp"):
        datasets.folder(tmp_path, "train")
    save(tmp_path / "test/cat/0.png", noise(4, 4))
    save(tmp_path / "val/cat/0.png", noise(4, 4))
    with expect_error("data.split", "'train'", "test, val"):
        datasets.folder(tmp_path, "train")
    save(tmp_path / "train/dog/0.png", noise(4, 4))
    with expect_error("data.split", "class 'cat'"):
        datasets.folder(tmp_path, "test")
    save(tmp_path / "train/0.png", noise(4, 4))
    with expect_error("data.data_dir", "loose", "0.png"):
        datasets.folder(tmp_path, "train")


# ---- resizing


@pytest.mark.parametrize("shape", [(16, 16), (100, 40), (37, 90), (8, 8), (5, 7)])
@pytest.mark.parametrize("size", [(8, 8), (8, 12), (9, 5)])
def test_center_crop_gives_the_size_and_keeps_constants(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    out = images.center_crop(Image.fromarray(np.full((*shape, 3), 77, np.uint8)), size)
    np.testing.assert_array_equal(np.asarray(out), np.full((*size, 3), 77))


def test_center_crop_is_centred_and_halves_by_boxes() -> None:
    wide = noise(8, 20, 3)
    np.testing.assert_array_equal(
        np.asarray(images.center_crop(Image.fromarray(wide), (8, 8))), wide[:, 6:14]
    )
    big = noise(16, 16)
    means = big.reshape(8, 2, 8, 2).mean((1, 3))
    halved = np.asarray(images.center_crop(Image.fromarray(big), (8, 8)))
    assert np.abs(halved - means).max() <= 1  # Pillow rounds after the rows and after the columns


# ---- TensorFlow Datasets


def write_tfds(
    root: Path, features: dict[str, Any], splits: dict[str, list[Any]], **kwargs: Any
) -> None:
    """Prepares a set `toy` with these features and examples under ``root``."""
    features = tensorflow_datasets.features.FeaturesDict(features)

    def examples(rows: list[Any]) -> Any:
        return ((i, row) for i, row in enumerate(rows))

    class Toy(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tensorflow_datasets.core.Version("1.0.0")
        name = "toy"

        def _info(self) -> Any:
            return tensorflow_datasets.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager: Any) -> Any:
            return {name: self._generate_examples(rows) for name, rows in splits.items()}

        def _generate_examples(self, rows: list[Any]) -> Any:
            return examples(rows)

    Toy(data_dir=root, **({"file_format": "array_record"} | kwargs)).download_and_prepare()


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


FEATURES = tensorflow_datasets.features


def test_a_prepared_set_its_slices_and_its_errors(tmp_path: Path) -> None:
    arrays = [noise(6, 5, 3) for _ in range(10)]
    features = {
        "image": FEATURES.Image(shape=(6, 5, 3)),
        "label": FEATURES.ClassLabel(names=["x", "y"]),
    }
    rows = [{"image": png(array), "label": i % 2} for i, array in enumerate(arrays)]
    write_tfds(tmp_path, features, {"train": rows, "val": rows[:2]})
    for data_dir in (tmp_path, tmp_path / "toy/1.0.0"):
        train = datasets.tfds("toy", "train", str(data_dir))
        assert train.identity == "toy"
        assert (train.image_shape, train.num_classes, train.class_names, len(train)) == (
            (6, 5, 3),
            2,
            ("x", "y"),
            10,
        )
    pixels, labels = train.arrays()
    written = {array.tobytes(): i % 2 for i, array in enumerate(arrays)}
    assert {p.tobytes(): int(label) for p, label in zip(pixels, labels, strict=True)} == written
    half = datasets.tfds("toy:1.0.0", "train[50%:]", str(tmp_path))
    np.testing.assert_array_equal(half.arrays()[0], pixels[5:])
    np.testing.assert_array_equal(half.batch(np.array([4, 0]))["image"], pixels[[9, 5]])
    assert datasets.tfds("toy", "val", str(tmp_path), size=(3, 3)).arrays()[0].shape == (2, 3, 3, 3)
    for split in ("test", "train[:0]", "train["):
        with expect_error("data.split", "toy", repr(split), "train, val"):
            datasets.tfds("toy", split, str(tmp_path))
    with expect_error("data.data_dir", "toy:1.0.0", "cifar10"):
        datasets.tfds("cifar10", "train", str(tmp_path / "toy/1.0.0"))
    for other in ("toy/big", "toy:2.0.0"):
        with expect_error("data.data_dir", "toy:1.0.0", other):
            datasets.tfds(other, "train", str(tmp_path / "toy/1.0.0"))


def test_images_of_many_sizes_and_no_labels(tmp_path: Path) -> None:
    write_tfds(
        tmp_path,
        {"image": FEATURES.Image()},
        {"train": [{"image": png(noise(9, 7))}, {"image": png(noise(5, 8, 3))}]},
    )
    with expect_error("data.size", "toy", "different"):
        datasets.tfds("toy", "train", str(tmp_path))
    train = datasets.tfds("toy", "train", str(tmp_path), (4, 4))
    assert (train.num_classes, train.image_shape) == (0, (4, 4, 3))
    assert train.arrays()[1].tolist() == [0, 0]


def test_sets_without_images_are_refused(tmp_path: Path) -> None:
    write_tfds(tmp_path, {"text": FEATURES.Text()}, {"train": [{"text": "hello"}]})
    with expect_error("data.name", "toy", "'image'", "text"):
        datasets.tfds("toy", "train", str(tmp_path))


def test_another_file_format_is_refused(tmp_path: Path) -> None:
    write_tfds(
        tmp_path,
        {"image": FEATURES.Image(shape=(2, 2, 3))},
        {"train": [{"image": png(noise(2, 2, 3))}]},
    )
    info = tmp_path / "toy/1.0.0/dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with expect_error("data.data_dir", "tfrecord", "file_format='array_record'"):
        datasets.tfds("toy", "train", str(tmp_path))


@pytest.mark.skipif(
    "DDAEPP_TFDS_DIR" not in os.environ,
    reason="needs the environment variable DDAEPP_TFDS_DIR, a folder of prepared sets",
)
def test_real_cifar10() -> None:
    train = datasets.tfds("cifar10", "train", os.environ["DDAEPP_TFDS_DIR"], download=False)
    assert (len(train), train.image_shape, train.nbytes) == (50000, (32, 32, 3), 153_600_000)
    pixels, labels = train.arrays()
    assert np.bincount(labels).tolist() == [5000] * 10
    mean = (to_float(pixels).mean((0, 1, 2)) + 1) / 2
    # The means that the literature uses to normalise CIFAR-10.
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=1e-3)


def test_the_splits_of_digits_hold_each_image_once() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    both = [datasets.digits(split).arrays() for split in ("train", "test")]
    np.testing.assert_array_equal(np.concatenate([part for _, part in both]), labels)
    read = np.concatenate([part for part, _ in both]).reshape(1797, 64)
    np.testing.assert_array_equal(np.round(read * (16 / 255)), pixels)
