"""Digits and TensorFlow Datasets: their images, labels, splits and errors."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets
from helpers.errors import expect_error
from PIL import Image

from ddaepp_jax.data import datasets
from ddaepp_jax.data.augment import to_float
from ddaepp_jax.data.order import batch_indices

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, np.uint8)


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


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("classes", [0, 3])
def test_few_images_fill_batches_of_any_size(count: int, classes: int) -> None:
    pixels, labels = noise(count, 2, 2, 1), np.arange(count, dtype=np.int32) % max(classes, 1)
    few = datasets.Dataset(
        *("few", "train", (2, 2, 1), classes, ("a", "b", "c")[:classes], count),
        read=lambda rows: (pixels[rows], labels[rows]),
    )
    np.testing.assert_array_equal(few.arrays()[0], pixels)
    for step in (0, 1000):
        indices = batch_indices(0, step, 64, count)
        assert set(indices) == set(range(count))
        np.testing.assert_array_equal(few.gather(indices)[1], labels[indices])
    assert few.gather(np.zeros(0, int))[0].shape == (0, 2, 2, 1)


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
    assert half.spans == (("train", 5, 10),)
    half = datasets.tfds("toy", "train[50%:]", str(tmp_path))
    others = {"train": 5, "train[-10%:]": 1, "train[:3]+train[4:6]": 1, "val": 0}
    for other, shared in others.items():
        assert half.shared(datasets.tfds("toy", other, str(tmp_path))) == shared
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
