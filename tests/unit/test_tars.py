"""Image shards: their splits, samples, classes and cached lists, and what is refused."""

import io
import json
import tarfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers.errors import expect_error
from helpers.run import config
from PIL import Image

from ddaepp_jax import build
from ddaepp_jax.data import tar_index
from ddaepp_jax.data.fingerprint import fingerprint
from ddaepp_jax.data.tars import tars

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/ddaepp_jax/tars"


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, np.uint8)


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def write(file: Path, members: Mapping[str, bytes | str | np.ndarray]) -> Path:
    """Writes a tar file of members; arrays become PNG files."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, content in members.items():
            content = png(content) if isinstance(content, np.ndarray) else content
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file


def fill(root: Path, name: str, labels: list[int], shape: tuple[int, ...] = (4, 5, 3)) -> Path:
    """Writes a shard of images with labels in files."""
    members = {}
    for i, label in enumerate(labels):
        members |= {f"{i:06}.png": noise(*shape), f"{i:06}.cls": str(label)}
    return write(root / name, members)


def test_shards_are_read_in_any_order_and_by_threads(tmp_path: Path) -> None:
    arrays = [noise(4, 5, 3) for _ in range(7)]
    write(
        tmp_path / "train-000001.tar",
        {
            "README": "of no sample",
            "a/n01_0.cls": "2\n",
            "a/n01_0.PNG": arrays[4],
            "a/n01_0.json": '{"label": 2}',
            "a/n01_0.seg.png": arrays[0],
            "b/n01_0.png": arrays[5],
            "b/n01_0.json": '{"width": 5, "label": 0}',
            "b/n01_1.json": "{}",
            "b/n01_1.png": arrays[6],
            "b/n01_1.cls": "1",
        },
    )
    labels = [1, 0, 1, 2]
    members = {f"{i}.png": arrays[i] for i in range(4)}
    members |= {f"{i}.cls": str(label) for i, label in enumerate(labels)}
    write(tmp_path / "train-000000.tar", dict(sorted(members.items())))
    data = tars(tmp_path, "train")
    assert (len(data), data.image_shape, data.class_names) == (7, (4, 5, 3), ("0", "1", "2"))
    assert "2 train-#.tar" in data.described
    images, read_labels = data.arrays()
    np.testing.assert_array_equal(images, np.stack(arrays))
    assert read_labels.tolist() == [*labels, 2, 0, 1]
    with ThreadPoolExecutor(4) as pool:
        for image, label in pool.map(data.read, [np.array([6, 1])] * 40):
            np.testing.assert_array_equal(image, np.stack([arrays[6], arrays[1]]))
            assert label.tolist() == [1, 0]


def test_the_config_names_shards_and_their_size(tmp_path: Path) -> None:
    fill(tmp_path, "train/0.tar", [0, 1], (16, 8, 3))
    made = config(data__name=build.TAR, data__data_dir=str(tmp_path), data__size=(4, 4))
    assert build.dataset(made, "train").arrays()[0].shape == (2, 4, 4, 3)
    assert build.data_description(made) == ((4, 4, 3), ("0", "1"))
    made.data.data_dir = ""
    with expect_error("data.data_dir", "empty", "tar"):
        build.dataset(made, "train")


def test_a_set_without_labels_and_with_some_colours(tmp_path: Path) -> None:
    write(tmp_path / "train.tar", {"0.png": noise(4, 4), "1.png": noise(4, 4, 3)})
    data = tars(tmp_path, "train")
    assert (data.num_classes, data.image_shape) == (0, (4, 4, 3))
    assert data.arrays()[1].tolist() == [0, 0]


# ---- Splits and classes


def test_splits_are_words_of_names_or_folders(tmp_path: Path) -> None:
    fill(tmp_path, "wds/imagenet1k-train-0000.tar", [0, 4])
    fill(tmp_path, "wds/imagenet1k-train-0001.tar", [1])
    fill(tmp_path, "wds/imagenet1k-validation-00.tar", [2])
    fill(tmp_path, "wds/test/any.tar", [3, 3])
    fill(tmp_path, "wds/test/other.tar", [3])
    counts = {"train": 3, "validation": 1, "test": 3}
    for split, count in counts.items():
        data = tars(tmp_path / "wds", split)
        assert (len(data), data.class_names) == (count, ("0", "1", "2", "3", "4"))
        assert data.shared(tars(tmp_path / "wds", "train")) == (3 if split == "train" else 0)
    with expect_error("data.split", "'val'", "imagenet1k-train-#.tar", "val-000000.tar"):
        tars(tmp_path / "wds", "val")


def test_splits_in_the_same_files_share_their_images(tmp_path: Path) -> None:
    fill(tmp_path, "train-val-0.tar", [0, 1])
    assert tars(tmp_path, "train").shared(tars(tmp_path, "val")) == 2


@pytest.mark.parametrize("other", ["train/0.tar", "train-val-0.tar", "my-train-0.tar"])
def test_a_split_in_two_places_is_refused(tmp_path: Path, other: str) -> None:
    fill(tmp_path, "train-0.tar", [0])
    fill(tmp_path, other, [0])
    with expect_error("data.split", "train-#.tar", "'train'", "move"):
        tars(tmp_path, "train")


def test_classes_are_listed_or_those_of_the_training_split(tmp_path: Path) -> None:
    fill(tmp_path, "train-0.tar", [0, 1])
    fill(tmp_path, "test-0.tar", [0, 2])
    with expect_error("data.split", "test-0.tar: 000001", "label 2", "train-#.tar", "classes.txt"):
        tars(tmp_path, "test")
    (tmp_path / "classes.txt").write_text("cat\ntabby cat\ndog\n")
    assert tars(tmp_path, "test").class_names == ("cat", "tabby cat", "dog")
    assert tars(tmp_path, "train").class_names == ("cat", "tabby cat", "dog")


# ---- The cached list


def test_a_list_is_kept_until_a_shard_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "train-0.tar", [0, 1])
    before = tars(tmp_path, "train")
    (kept,) = cache.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(tar_index, "_scan", lambda *_: pytest.fail("listed again"))
        assert fingerprint(tars(tmp_path, "train")) == fingerprint(before)
    kept.write_bytes(kept.read_bytes()[:100])
    assert fingerprint(tars(tmp_path, "train")) == fingerprint(before)
    fill(tmp_path, "train-0.tar", [0, 1, 1, 0, 2])
    assert len(tars(tmp_path, "train")) == 5
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "train-0.tar"))  # no folder
    assert len(tars(tmp_path, "train")) == 5


# ---- What is refused


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"a.png": noise(2, 2), "a.cls": "1", "b.png": noise(2, 2)}, ["b.png", "no label", ".cls"]),
        ({"a.png": noise(2, 2), "a.jpg": b"other"}, ["a.png", "a.jpg", "two images"]),
        ({"a.png": noise(2, 2), "a.cls": "1", "a.json": '{"label": 2}'}, ["a.json", "two labels"]),
        ({"a.png": noise(2, 2), "a.cls": "cat"}, ["a.cls", "no label", "cat", "number"]),
        ({"a.png": noise(2, 2), "a.cls": b"\xff"}, ["a.cls", "no label"]),
        ({"a.png": noise(2, 2), "a.cls": ""}, ["a.cls", "no label"]),
        ({"a.png": noise(2, 2), "a.json": "{"}, ["a.json", "no label"]),
        ({"a.png": noise(2, 2), "a.json": '{"label": "cat"}'}, ["a.json", "no label"]),
        ({"a.png": noise(2, 2), "a.json": '{"label": 1.5}'}, ["a.json", "no label"]),
        ({"a.png": noise(2, 2), "a.cls": "-1"}, ["a.cls", "-1", "0..999999"]),
        ({"a.png": noise(2, 2), "b.cls": "1"}, ["b.cls", "no image", "--sort=name"]),
        ({"a.b.png": noise(2, 2)}, ["no images", "KEY.png"]),
        ({"a.png": b"no image"}, ["a.png", "not an image", "replace or remove"]),
        ({"a.png": png(noise(9, 9))[:60]}, ["a.png", "replace or remove"]),
        ({"a.png": noise(2, 2), "b.png": noise(3, 2)}, ["a.png is 2x2", "b.png 3x2", "height"]),
        ({"a\n.png": b"no image"}, ["'a\\n.png'"]),
    ],
)
def test_bad_members_are_named(tmp_path: Path, members: dict, words: list[str]) -> None:
    write(tmp_path / "train-0.tar", members)
    with expect_error("", "train-0.tar", *words):
        tars(tmp_path, "train").arrays()


def test_a_damaged_image_after_the_first_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ddaepp_jax.data.tars.PROBED", 2)
    members = {f"{i}.png": png(noise(8, 8, 3)) for i in range(5)}
    file = write(tmp_path / "train-0.tar", members | {"3.png": members["3.png"][:90]})
    data = tars(tmp_path, "train")
    data.read(np.arange(3))
    with expect_error(f"{file}: 3.png", "replace or remove"):
        data.read(np.array([0, 3]))
    file.unlink()
    with expect_error(str(file), "restore"):
        data.read(np.array([0]))


@pytest.mark.parametrize("damage", ["start", "header", "member", "end", "empty", "gz"])
def test_damaged_files(tmp_path: Path, damage: str) -> None:
    file = fill(tmp_path, "train-0.tar", [0, 1, 0])
    content = bytearray(file.read_bytes())
    starts = [i for i in range(0, len(content), 512) if content[i + 257 : i + 262] == b"ustar"]
    if damage == "header":
        content[starts[3] + 10] ^= 1
    lengths = {"start": 300, "member": starts[2] - 512, "end": starts[-1] + 1024, "empty": 0}
    file.write_bytes(content[: lengths.get(damage, len(content))])
    if damage == "gz":
        file.write_bytes(b"\x1f\x8b" + content[2:])
    with expect_error(str(file), "tar file", "again"):
        tars(tmp_path, "train")


def test_places_without_shards(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with expect_error("data.data_dir", str(place), ".tar"):
            tars(place, "train")
    (tmp_path / "train-0.tar").symlink_to("nowhere")
    with expect_error(f"{tmp_path / 'train-0.tar'}", "cannot be read"):
        tars(tmp_path, "train")


def test_json_members_may_be_of_any_form(tmp_path: Path) -> None:
    forms = [{"caption": "x"}, [], ["a"], {"label": 3}]
    members = {}
    for i, form in enumerate(forms):
        members |= {f"{i}.png": noise(2, 2), f"{i}.json": json.dumps(form)}
    write(tmp_path / "train-0.tar", members)
    with expect_error(f"{tmp_path / 'train-0.tar'}: 0.png has no label"):
        tars(tmp_path, "train")
