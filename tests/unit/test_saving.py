"""Saves that fail end in one line, and damage to what was saved is seen."""

import errno
import hashlib
import json
import os
import shutil

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers.errors import expect_error

from ddaepp_jax.base.errors import SaveError
from ddaepp_jax.training import saving
from ddaepp_jax.training.saving import Saver, check_path, verify

TREE = {"ema": {"w": jnp.arange(2000.0)}, "meta": {"step": 1}}


def items():
    return ocp.args.Composite(
        ema=ocp.args.StandardSave(TREE["ema"]), meta=ocp.args.JsonSave(TREE["meta"])
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The directory of a saved step; copy it to change it."""
    directory = tmp_path_factory.mktemp("saves") / "checkpoints"
    saver = Saver(directory)
    saver.save(1, items(), 8000)
    saver.close()
    return directory / "1"


@pytest.mark.parametrize("path", ["lr[3e-4]", "a*b/run", "[proj]/run", "what?"])
def test_a_path_that_orbax_expands_is_refused(tmp_path, monkeypatch, path):
    with expect_error("--workdir", str(tmp_path / path), "rename"):
        check_path(tmp_path / path)
    (tmp_path / path).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / path)
    with expect_error("--workdir", str(tmp_path / path)):
        check_path(saving.Path("run"))  # A relative path counts from where the program runs.


def test_a_path_that_is_not_utf_8_is_refused(tmp_path):
    with expect_error("--workdir", "x\\udcff", "UTF-8", "PYTHONUTF8=1"):
        check_path(tmp_path / os.fsdecode(b"x\xff"))


@pytest.mark.parametrize("path", ["run=1,lr=3e-4", "ünï (2)", "run #1", "a{b}", "100%", "-x"])
def test_other_paths_can_be_read_back(tmp_path, path):
    check_path(tmp_path / path)
    saver = Saver(tmp_path / path)
    saver.save(1, items(), 8000)
    saver.close()
    verify(tmp_path / path / "1", "ema", "meta")
    assert (tmp_path / path / "1" / "checksums.json").is_file()


@pytest.mark.parametrize("item", ["ema", "meta"])
def test_every_flipped_bit_is_seen(saved, tmp_path, item):
    rng = np.random.default_rng(0)
    step = shutil.copytree(saved, tmp_path / "1")
    verify(step, "ema", "meta")
    for file in sorted(file for file in (step / item).rglob("*") if file.is_file()):
        content = file.read_bytes()
        for bit in rng.integers(0, max(8 * len(content), 1), 3) if content else ():
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            with expect_error(str(file), "checksum"):
                verify(step, "ema", "meta")
        file.unlink()
        with expect_error(str(file), "checksum"):
            verify(step, item)
        file.write_bytes(content)
    verify(step, "ema", "meta")


def test_damaged_checksums_are_named_and_missing_ones_pass(saved, tmp_path):
    step = shutil.copytree(saved, tmp_path / "1")
    file = step / "checksums.json"
    for damage in ("", "{", '{"sha256": 3}', '{"sha256": [4]}', "[]", "{}"):
        file.write_text(damage)
        with expect_error(str(file), "damaged", "remove"):
            verify(step, "ema")
    file.unlink()
    verify(step, "ema", "meta")


def test_no_checksums_where_they_are_off(tmp_path):
    saver = Saver(tmp_path / "saves", checksums=False)
    saver.save(1, items(), 8000)
    saver.close()
    assert not (tmp_path / "saves" / "1" / "checksums.json").exists()


def test_the_checksums_are_of_the_files(saved):
    facts = json.loads((saved / "checksums.json").read_text())["sha256"]
    files = {
        str(file.relative_to(saved)): hashlib.sha256(file.read_bytes()).hexdigest()
        for item in ("ema", "meta")
        for file in (saved / item).rglob("*")
        if file.is_file()
    }
    assert facts == files


def expect_save_error(*words):
    return pytest.raises(SaveError, match=".*".join(words))


def test_a_full_disk_is_known_before_the_save(tmp_path, monkeypatch):
    saver = Saver(tmp_path / "saves")
    free = shutil.disk_usage(tmp_path).free
    with expect_save_error("a save takes", "are free", "resumes"):
        saver.save(1, items(), 2 * free)
    saver.close()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (ValueError("OUT_OF_RANGE: ..\n [os_error_code='122']"), "Disk quota exceeded"),
        (RuntimeError("first line\nsecond"), "first line"),
    ],
)
@pytest.mark.parametrize("method", ["save", "wait_until_finished", "check_for_errors"])
def test_a_failed_save_is_one_line(tmp_path, monkeypatch, error, reason, method):
    def fail(*args, **kwargs):
        raise error

    saver = Saver(tmp_path / "saves")
    with monkeypatch.context() as patch, expect_save_error("saves/1", reason, "is good") as caught:
        patch.setattr(saver._manager, method, fail)
        saver.save(1, items(), 8000)
        saver.wait()
    assert "\n" not in str(caught.value)
    saver.close()


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with expect_save_error("file", "File exists|Not a directory"):
        Saver(tmp_path / "file")
    with expect_save_error("file/saves", "Not a directory"):
        Saver(tmp_path / "file" / "saves")


def test_a_save_that_cannot_be_read_back_is_known_after_the_first(tmp_path, monkeypatch):
    saver = Saver(tmp_path / "saves")
    saver.save(1, items(), 8000)
    monkeypatch.setattr(
        ocp.PyTreeCheckpointHandler,
        "metadata",
        lambda *_: 1 / 0,  # whatever the reason is
    )
    with expect_save_error("saves/1", "division"):
        saver.wait()
