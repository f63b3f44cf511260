"""Downloading and preparing: a local server serves CIFAR archives of a few random images.

TFDS's own builders download and prepare them.
"""

import hashlib
import io
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets
from helpers.errors import expect_error
from tensorflow_datasets.core.download import downloader
from tensorflow_datasets.core.download.checksums import UrlInfo
from tensorflow_datasets.image_classification import cifar

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.data import datasets, prepare

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """Runs a local web server; returns its URL and the folder that it serves."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    root = tmp_path / "www"
    root.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", root
        httpd.shutdown()
        thread.join()


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def records(images: np.ndarray, *labels: np.ndarray) -> bytes:
    """Encodes images as CIFAR's binary rows: label bytes, then red, green and blue planes."""
    columns = [label[:, None] for label in labels] + [
        images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    ]
    return np.concatenate(columns, 1).astype(np.uint8).tobytes()


def use_url(monkeypatch: pytest.MonkeyPatch, builder: type[cifar.Cifar10], url: str) -> None:
    original = builder._cifar_info.fget
    monkeypatch.setattr(
        builder, "_cifar_info", property(lambda self: original(self)._replace(url=url))
    )


def assert_same_set(dataset: datasets.Dataset, images: np.ndarray, labels: np.ndarray) -> None:
    """Checks equality up to the order, which TFDS shuffles when it writes."""
    read, read_labels = dataset.arrays()
    pairs = sorted(
        (image.tobytes(), int(label)) for image, label in zip(read, read_labels, strict=True)
    )
    assert pairs == sorted(
        (image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)
    )


@pytest.fixture
def cifar10(
    server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> tuple[np.ndarray, np.ndarray, str, Path]:
    """Serves an archive of 18 random images: 5 batches of 3 for training, 3 for the test.

    Returns:
      The images, their labels, and the archive's URL and file.
    """
    url, root = server
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (18, 32, 32, 3), np.uint8)
    labels = rng.integers(0, 10, 18)
    files = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    rows = [slice(3 * i, 3 * i + 3) for i in range(6)]
    content = {
        f"cifar-10-batches-bin/{f}": records(images[r], labels[r])
        for f, r in zip(files, rows, strict=True)
    }
    content["cifar-10-batches-bin/batches.meta.txt"] = "\n".join([*NAMES, "\n"]).encode()
    write_tar(root / "cifar-10-binary.tar.gz", content)
    url = f"{url}/cifar-10-binary.tar.gz"
    use_url(monkeypatch, cifar.Cifar10, url)
    return images, labels, url, root / "cifar-10-binary.tar.gz"


def test_cifar10_comes_back_pixel_for_pixel_without_tensorflow(cifar10, tmp_path: Path) -> None:
    images, labels, *_, archive = cifar10
    train = datasets.tfds("cifar10", "train", str(tmp_path / "data"))
    assert (train.image_shape, train.num_classes, len(train)) == ((32, 32, 3), 10, 15)
    assert train.class_names == tuple(NAMES)
    assert_same_set(train, images[:15], labels[:15])
    archive.unlink()  # From here on, the prepared files are read.
    assert_same_set(
        datasets.tfds("cifar10", "test", str(tmp_path / "data")), images[15:], labels[15:]
    )
    assert "tensorflow" not in sys.modules
    assert cifar.tf is not prepare._LOCAL_FILES  # The replacement in TFDS was undone.


def test_cifar100_takes_the_fine_labels(
    server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, root = server
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (8, 32, 32, 3), np.uint8)
    fine = rng.integers(0, 100, 8)
    coarse = np.arange(8)
    write_tar(
        root / "cifar-100-binary.tar.gz",
        {
            "cifar-100-binary/train.bin": records(images[:5], coarse[:5], fine[:5]),
            "cifar-100-binary/test.bin": records(images[5:], coarse[5:], fine[5:]),
            "cifar-100-binary/coarse_label_names.txt": "\n".join(
                f"group{i}" for i in range(20)
            ).encode(),
            "cifar-100-binary/fine_label_names.txt": "\n".join(
                f"class{i}" for i in range(100)
            ).encode(),
        },
    )
    use_url(monkeypatch, cifar.Cifar100, f"{url}/cifar-100-binary.tar.gz")
    train = datasets.tfds("cifar100", "train", str(tmp_path / "data"))
    assert train.num_classes == 100 and train.class_names[99] == "class99"
    assert_same_set(train, images[:5], fine[:5])


class GreyToy(tensorflow_datasets.core.GeneratorBasedBuilder):
    """Grey images with masks, both as arrays; the class registers itself as `grey_toy`."""

    VERSION = tensorflow_datasets.core.Version("1.0.0")
    IMAGES = np.random.default_rng(2).integers(0, 256, (4, 7, 5, 1), np.uint8)

    def _info(self) -> Any:
        image = tensorflow_datasets.features.Image(shape=(7, 5, 1), encoding_format="jpeg")
        features = tensorflow_datasets.features.FeaturesDict({"image": image, "mask": image})
        return tensorflow_datasets.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: Any) -> Any:
        return {"train": self._generate_examples(self.IMAGES)}

    def _generate_examples(self, images: np.ndarray) -> Any:
        for i, image in enumerate(images):
            yield i, {"image": image, "mask": 255 - image}


def test_grey_arrays_stay_lossless_even_if_the_set_asks_for_jpeg(tmp_path: Path) -> None:
    train = datasets.tfds("grey_toy", "train", str(tmp_path))
    assert (train.image_shape, train.num_classes) == ((7, 5, 1), 0)
    assert_same_set(train, GreyToy.IMAGES, np.zeros(4))


@pytest.mark.parametrize("right", [True, False])
def test_checksums_are_checked(
    cifar10, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: bool
) -> None:
    images, labels, url, archive = cifar10
    content = archive.read_bytes() if right else b"another archive"
    info = UrlInfo(
        size=len(content), checksum=hashlib.sha256(content).hexdigest(), filename=archive.name
    )
    monkeypatch.setattr(cifar.Cifar10, "url_infos", {url: info})
    if right:
        assert_same_set(
            datasets.tfds("cifar10", "train", str(tmp_path / "data")), images[:15], labels[:15]
        )
    else:
        # Not `expect_error`: TFDS's message has a random name, which may hold "0x".
        with pytest.raises(InputError, match=r"^data\.data_dir: .*checksum"):
            datasets.tfds("cifar10", "train", str(tmp_path / "data"))


def test_without_a_network_the_error_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    use_url(monkeypatch, cifar.Cifar10, "http://127.0.0.1:9/cifar-10-binary.tar.gz")
    monkeypatch.setattr(prepare, "_RETRIES", 0)
    monkeypatch.chdir(tmp_path)
    with expect_error("data.data_dir", "cifar10", "array_record"):
        datasets.tfds("cifar10", "train", "data")
    assert downloader.MAX_RETRIES > 0


def test_errors_name_the_missing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with expect_error("data.data_dir", "cifar10", "in data", "download"):
        datasets.tfds("cifar10", "train", "data", download=False)
    with expect_error("data.name", "'CIFAR 10'", "form"):
        datasets.tfds("CIFAR 10", "train", "data")
    with expect_error("data.name", "'nonesuch'", "TensorFlow Datasets"):
        datasets.tfds("nonesuch", "train", "data")
    with expect_error("data.data_dir", "imagenet2012", "manual"):
        datasets.tfds("imagenet2012", "train", "data")
