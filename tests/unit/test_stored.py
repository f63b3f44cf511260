"""Features in files: a stopped extraction goes on, and what is damaged is computed again."""

import errno
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from ddaepp_jax.base.errors import Stopped
from ddaepp_jax.base.parallel import make_mesh
from ddaepp_jax.data.datasets import digits
from ddaepp_jax.probing import stored
from ddaepp_jax.probing.features import Extraction, pixels

IMAGES, BATCH = 40, 8


def interrupt() -> None:
    raise KeyboardInterrupt


def store(
    directory: Path, stop: int = 0, event: Callable[[], None] = interrupt
) -> tuple[np.ndarray, np.ndarray, int]:
    """Stores the pixels of some digits; the ``stop``-th batch that is read meets an event.

    Returns the features, the labels, and how many batches were read.
    """
    data, reads = digits("test"), []

    def read(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        reads.append(ids)
        if len(reads) == stop:
            event()
        return data.gather(ids)

    mesh = make_mesh((1, 1, 1), jax.devices()[:1])
    extraction = Extraction(pixels, None, mesh, batch_size=BATCH)
    features, labels = stored.store(
        directory, extraction, read, np.arange(IMAGES), data.image_shape, "pixels"
    )
    return features["pixels"], labels, len(reads)


@pytest.fixture
def stopped(tmp_path) -> Path:
    """A directory in which an extraction was stopped while it read its last batch."""
    with pytest.raises(KeyboardInterrupt):
        store(tmp_path, stop=5)
    return tmp_path


def check(directory: Path) -> int:
    """Checks all features and labels; returns how many batches were read."""
    features, labels, reads = store(directory)
    images, expected = digits("test").gather(np.arange(IMAGES))
    np.testing.assert_allclose(features, images.reshape(IMAGES, -1) / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(labels, expected)
    return reads


def test_an_interrupt_loses_only_what_is_in_flight(stopped, capsys):
    """Nothing was saved before the interrupt, as it came sooner than the first interval."""
    assert json.loads((stopped / "whole.json").read_text())["rows"] == 2 * BATCH
    assert check(stopped) == 3 and check(stopped) == 0
    assert capsys.readouterr().out == ""


def test_a_signal_loses_nothing_that_was_read(tmp_path):
    def terminated() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)  # A thread takes the signal.

    with pytest.raises(Stopped) as stopped:
        store(tmp_path, 4, terminated)
    assert stopped.value.exit_code == 143
    assert json.loads((tmp_path / "whole.json").read_text())["rows"] == 4 * BATCH
    assert check(tmp_path) == 1


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 3)


def cut_and_filled(file: Path) -> None:
    size = file.stat().st_size
    cut(file)
    os.truncate(file, size)


def one_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[140] ^= 1  # in the first rows of either file
    file.write_bytes(content)


def garbage(file: Path) -> None:
    file.write_bytes(b"\x00garbage")


def another_shape(file: Path) -> None:
    np.save(file, np.load(file)[:-1])


@pytest.mark.parametrize("name", ["pixels.npy", "labels.npy"])
@pytest.mark.parametrize(
    "damage", [cut, cut_and_filled, one_bit, garbage, another_shape, Path.unlink]
)
def test_damaged_features_are_computed_again(stopped, name, damage, capsys):
    damage(stopped / name)
    assert check(stopped) == 5
    assert f"warning: {stopped}: its files are damaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"rows": 40}', '{"rows": -1, "digests": {}}', '{"rows": "2"}']
)
def test_a_damaged_counter_counts_no_row(stopped, text):
    (stopped / "whole.json").write_text(text)
    assert check(stopped) == 5


def test_one_row_more_than_were_written_is_noticed(stopped):
    file = stopped / "whole.json"
    written = json.loads(file.read_text())
    file.write_text(json.dumps(written | {"rows": written["rows"] + 1}))
    assert check(stopped) == 5


def test_a_full_disk_is_noticed_before_features_are_made(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match="No space left"):
            store(tmp_path, stop=1)
    assert check(tmp_path) == 5
