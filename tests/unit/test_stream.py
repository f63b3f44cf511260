"""Streamed batches: the same as on the device, for any start and number of processes."""

import numpy as np
import pytest

from ddaepp_jax.data.datasets import Dataset, digits
from ddaepp_jax.data.order import batch_indices
from ddaepp_jax.data.stream import stream


@pytest.fixture(scope="module")
def train() -> Dataset:
    return digits("train")


def test_batches_are_those_of_the_device_path_in_order(train: Dataset) -> None:
    images, labels = train.arrays()
    batches = stream(train, 3, 32, 0, 60, np.arange(32))  # 60 steps reach the second epoch
    for n, batch in enumerate(batches):
        indices = batch_indices(3, n, 32, len(train))
        np.testing.assert_array_equal(batch["index"], indices)
        np.testing.assert_array_equal(batch["image"], images[indices])
        np.testing.assert_array_equal(batch["label"], labels[indices])
    assert n == 59


def test_two_processes_hold_halves_of_the_same_batch(train: Dataset) -> None:
    whole = stream(train, 0, 16, 5, 25, np.arange(16))
    halves = [stream(train, 0, 16, 5, 25, rows) for rows in (np.arange(8), np.arange(8, 16))]
    for one, first, second in zip(whole, *halves, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], np.concatenate([first[key], second[key]]))


@pytest.mark.parametrize("threads", [1, 4])
def test_a_start_in_the_middle_gives_the_remaining_batches(train: Dataset, threads: int) -> None:
    full = [batch["index"] for batch in stream(train, 1, 8, 0, 40, np.arange(8), threads)]
    tail = [batch["index"] for batch in stream(train, 1, 8, 23, 40, np.arange(8), threads)]
    np.testing.assert_array_equal(full[23:], tail)


def test_an_error_in_a_reading_thread_reaches_the_caller(train: Dataset) -> None:
    def broken(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise OSError("disk gone")

    bad = Dataset("bad", "train", (8, 8, 1), 10, train.class_names, 100, broken)
    with pytest.raises(OSError, match="disk gone"):
        next(stream(bad, 0, 4, 0, 3, np.arange(4)))
