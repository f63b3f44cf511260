"""Fingerprints: the same for the same data wherever they lie, and another for any change."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from helpers.errors import expect_error
from PIL import Image

from ddaepp_jax.data import fingerprint as module
from ddaepp_jax.data.datasets import Dataset, digits
from ddaepp_jax.data.fingerprint import fingerprint
from ddaepp_jax.data.folders import folder

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2], np.int32)
NAMES = ("a", "b", "c")


def toy(images: np.ndarray = IMAGES, labels: np.ndarray = LABELS, names: tuple = NAMES) -> Dataset:
    return Dataset(
        *("toy", "train", images.shape[1:], len(names), names, len(images)),
        read=lambda rows: (images[rows], labels[rows]),
    )


def test_digits_have_the_same_fingerprint_for_ever() -> None:
    """A checkpoint's fingerprint is compared by later versions."""
    train = digits("train")
    assert fingerprint(train) == fingerprint(train.resident()) == "53d031be4b882c25"
    assert fingerprint(digits("test")) != fingerprint(train)


def test_any_change_of_the_data_changes_it() -> None:
    pixel = IMAGES.copy()
    pixel[3, 2, 1, 0] ^= 1
    label = LABELS.copy()
    label[5] = 0
    order = [1, 0, 2, 3, 4, 5]
    others = [
        toy(pixel),
        toy(labels=label),
        toy(names=("a", "b", "x")),
        toy(names=("b", "a", "c")),
        toy(names=(*NAMES, "d")),
        toy(names=("ab", "", "c")),
        toy(IMAGES[order], LABELS[order]),
        toy(IMAGES[:5], LABELS[:5]),
        toy(IMAGES.reshape(6, 2, 8, 1)),
        toy(IMAGES[:, ::-1]),
    ]
    prints = {fingerprint(each) for each in [toy(), *others]}
    assert len(prints) == 11 and fingerprint(toy()) in prints
    renamed = dataclasses.replace(toy(), name="other", split="test")
    assert fingerprint(renamed) == fingerprint(toy(IMAGES.copy()))


def pictures(root: Path, count: int = 30) -> Path:
    """Writes a folder of classes whose files all have the same size."""
    for i in range(count):
        path = root / "train" / "ab"[i % 2] / f"{i:02}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(path)
    return root


@pytest.mark.parametrize("large", [False, True])
def test_a_folder_may_move_but_not_change(
    tmp_path: Path, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(module, "WHOLE", 0)
        monkeypatch.setattr(module, "SAMPLE", 2)
    root = pictures(tmp_path / "pets")
    train = folder(root, "train")
    before = fingerprint(train)
    assert fingerprint(train.resident()) == before
    root = root.rename(tmp_path / "moved")
    assert fingerprint(folder(root, "train")) == before
    path = root / "train/b/13.bmp"  # neither the first nor the last image
    size = path.stat().st_size
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(path)
    assert path.stat().st_size == size and fingerprint(folder(root, "train")) != before
    Image.fromarray(np.full((8, 8, 3), 13, np.uint8)).save(path)
    assert fingerprint(folder(root, "train")) == before
    opened = folder(root, "train")
    path.unlink()
    with expect_error(f"{path}"):
        fingerprint(opened)
    assert fingerprint(folder(root, "train")) != before
