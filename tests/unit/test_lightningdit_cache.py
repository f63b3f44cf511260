"""LightningDiT's latents: what is read of them, their statistics, and what is refused."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from helpers.errors import expect_error
from helpers.run import NO_EVALS, config
from safetensors.numpy import save_file

from ddaepp_jax import build
from ddaepp_jax.data import lightningdit_cache as cache
from ddaepp_jax.data.normalisation import Normalisation
from ddaepp_jax.run.train import make_plan

RNG = np.random.default_rng(0)
C, H, W = 3, 4, 2
MEAN, STD = np.array([0.5, -1.0, 2.0]), np.array([2.0, 4.0, 0.5])


def tensors(labels: list[int], dtype: np.dtype = np.float32) -> dict[str, np.ndarray]:
    latents, mirrored = RNG.standard_normal((2, len(labels), C, H, W)).astype(dtype)
    return {"latents": latents, "latents_flip": mirrored, "labels": np.array(labels, np.int64)}


def save(file: Path, content: dict[str, np.ndarray]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(content, file)
    return file


@pytest.fixture
def statistics(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stands in for the PyTorch file, and lists the folders whose statistics are asked for."""
    asked = []

    def read(directory: Path, channels: int) -> Normalisation:
        asked.append(directory)
        return Normalisation(tuple(MEAN), tuple(1 / STD))

    monkeypatch.setattr(cache, "_normalisation", read)
    return asked


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_records_are_latents_and_those_of_mirror_images(
    tmp_path: Path, statistics: list[Path], dtype: np.dtype
) -> None:
    parts = [tensors([0, 3, 1], dtype), tensors([2, 0], dtype)]
    for number, part in enumerate(parts):
        save(tmp_path / f"latents_rank00_shard{number:03}.safetensors", part)
    data = cache.lightningdit_cache(tmp_path, "train")
    assert statistics == [tmp_path] and len(data) == 5 and data.image_shape == (H, W, C)
    assert data.class_names == ("0", "1", "2", "3") and data.encoding.record_shape == (H, W, 2 * C)
    records, labels = data.arrays()
    assert labels.tolist() == [0, 3, 1, 2, 0] and records.dtype == np.float16
    whole = [np.concatenate([p[name] for p in parts]) for name in ("latents", "latents_flip")]
    expected = np.concatenate([w.transpose(0, 2, 3, 1) for w in whole], axis=-1).astype(np.float16)
    np.testing.assert_array_equal(records, expected)
    some = np.array([4, 0, 2, 4])
    with ThreadPoolExecutor(4) as pool:
        for read, read_labels in pool.map(data.read, [some] * 20):
            np.testing.assert_array_equal(read, expected[some])
            np.testing.assert_array_equal(read_labels, labels[some])
    clean = (expected[..., :C].astype(np.float32) - MEAN) / STD
    np.testing.assert_allclose(data.clean().arrays()[0], clean, rtol=1e-5, atol=1e-6)


def test_splits_take_statistics_and_classes_from_the_training_split(
    tmp_path: Path, statistics: list[Path]
) -> None:
    save(tmp_path / "train/0.safetensors", tensors([0, 6]))
    save(tmp_path / "val/0.safetensors", tensors([1, 2, 0]))
    data = cache.lightningdit_cache(tmp_path, "val")
    assert (len(data), data.num_classes, statistics) == (3, 7, [tmp_path / "train"])
    assert cache.lightningdit_cache(tmp_path, "test") is None
    save(tmp_path / "own/val_256/0.safetensors", tensors([1]))
    data = cache.lightningdit_cache(tmp_path / "own", "val_256")
    assert (data.num_classes, statistics[-1]) == (2, tmp_path / "own/val_256")


def test_latents_in_the_folder_itself_are_one_split(tmp_path: Path, statistics: list[Path]) -> None:
    save(tmp_path / "0.safetensors", tensors([0, 1]))
    with expect_error("data.split", "'train'", f"{tmp_path / 'test'}"):
        cache.lightningdit_cache(tmp_path, "test")


@pytest.mark.usefixtures("statistics")
def test_a_run_plans_with_them_and_its_fid_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "0.safetensors", tensors([0, 1]))
    fields = NO_EVALS | {"data__name": "latents", "data__data_dir": str(tmp_path)}
    fields |= {"data__flip": False, "model__patch_size": 1}
    made = config(**fields)
    assert build.dataset(made, "train").described.endswith(f"by LightningDiT, from {tmp_path}")
    assert make_plan(made).data.image_shape == (H, W, C)
    made.evals.fid.every = 3
    with expect_error("evals.fid.every: 3", str(tmp_path), "set it to 0"):
        make_plan(made)


# ---- Statistics


def test_the_statistics_are_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch writes and reads the statistics")
    save(tmp_path / "0.safetensors", tensors([0]))
    file = tmp_path / cache.STATISTICS

    def written(mean: np.ndarray, std: np.ndarray) -> None:
        shape = (1, -1, 1, 1)
        facts = {"mean": torch.tensor(mean).float(), "std": torch.tensor(std).float()}
        torch.save({name: each.reshape(shape) for name, each in facts.items()}, file)

    written(MEAN, STD)
    normalisation = cache.lightningdit_cache(tmp_path, "train").encoding.normalisation
    assert normalisation == Normalisation(tuple(MEAN), tuple(1 / STD))
    for mean, std, words in (
        (MEAN, np.zeros(C), "not finite or positive"),
        (MEAN * np.nan, STD, "not finite or positive"),
        (MEAN[:2], STD[:2], "of 3 channels"),
    ):
        written(mean, std)
        with expect_error(f"data.data_dir: {file}", words, "again"):
            cache.lightningdit_cache(tmp_path, "train")
    for content in ({"mean": torch.zeros(C)}, [1], "text"):
        torch.save(content, file)
        with expect_error(f"data.data_dir: {file}", "again"):
            cache.lightningdit_cache(tmp_path, "train")
    file.write_bytes(file.read_bytes()[:200])
    with expect_error(f"data.data_dir: {file}", "again"):
        cache.lightningdit_cache(tmp_path, "train")


def test_missing_statistics_and_a_missing_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "0.safetensors", tensors([0]))
    with expect_error(f"data.data_dir: {tmp_path} lacks latents_stats.pt", "copy it"):
        cache.lightningdit_cache(tmp_path, "train")
    (tmp_path / cache.STATISTICS).write_bytes(b"any")
    monkeypatch.setitem(sys.modules, "torch", None)
    with expect_error("data.data_dir", cache.STATISTICS, "pip install 'ddaepp_jax[convert]'"):
        cache.lightningdit_cache(tmp_path, "train")


# ---- Shards


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda each: each.pop("latents_flip"), "'latents_flip'"),
        (lambda each: each.update(latents_flip=each["latents"][:1].copy()), "shapes (2, 3, 4, 2)"),
        (lambda each: each.update(labels=np.array([0], np.int64)), "shapes"),
        (lambda each: each.update(labels=np.array([0, -1], np.int64)), "labels outside"),
        (lambda each: each.update(labels=np.array([0, 1], np.uint8)), "type U8"),
        (lambda each: each.update(tensors([])), ""),
    ],
)
def test_shards_of_another_form(tmp_path: Path, change, words: str) -> None:
    content = tensors([0, 1])
    change(content)
    file = save(tmp_path / "train/0.safetensors", content)
    with expect_error(f"data.data_dir: {file}", words, "again"):
        cache.lightningdit_cache(tmp_path, "train")


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_shard_that_was_cut_off(tmp_path: Path, length: int) -> None:
    file = save(tmp_path / "train/0.safetensors", tensors([0, 1]))
    file.write_bytes(file.read_bytes()[:length])
    with expect_error(f"data.data_dir: {file}", "download it again"):
        cache.lightningdit_cache(tmp_path, "train")


def test_a_file_that_is_no_shard(tmp_path: Path) -> None:
    file = tmp_path / "0.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\n")
    with expect_error(f"data.data_dir: {file}", "header"):
        cache.lightningdit_cache(tmp_path, "train")


@pytest.mark.usefixtures("statistics")
def test_shards_that_differ_and_latents_that_float16_does_not_hold(tmp_path: Path) -> None:
    content = tensors([0, 1])
    content["latents"][1, 0, 0, 0] = 1e6
    save(tmp_path / "0.safetensors", tensors([0]))
    file = save(tmp_path / "1.safetensors", content)
    data = cache.lightningdit_cache(tmp_path, "train")
    data.read(np.array([0, 1]))
    with expect_error(f"data.data_dir: {file}: latents 1 ", "float16"):
        data.read(np.array([0, 2]))
    content = {
        name: each[:, :2].copy() if each.ndim > 1 else each for name, each in content.items()
    }
    save(file, content)
    with expect_error(f"data.data_dir: {file}", "(2, 4, 2)", "0.safetensors (3, 4, 2)"):
        cache.lightningdit_cache(tmp_path, "train")
