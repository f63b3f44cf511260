"""Runs in zip files and at addresses, by fsspec's file system in memory.

Nothing is written there.
"""

import json
import shutil
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import jax
import numpy as np
import pytest
from helpers.errors import TINY, expect_error

import ddaepp_jax
from ddaepp_jax import convert, fid, find_bottleneck, linear_probe, main, report, sample
from ddaepp_jax.base import lock
from ddaepp_jax.run.train import weights_to_start_from

ADDRESS = "memory://bucket/runs/digits"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bucket():
    """Returns a function that puts a run directory at the address, instead of what is there."""
    memory = fsspec.filesystem("memory")

    def put(directory: Path) -> fsspec.AbstractFileSystem:
        memory.store.clear()
        for file in directory.rglob("*"):
            if file.is_file():
                memory.pipe(f"/bucket/runs/digits/{file.relative_to(directory)}", file.read_bytes())
        return memory

    yield put
    memory.store.clear()


def check_same(run, other):
    """Checks that two opened runs are one in weights, features and saved state."""
    assert (run.step, run.average, run.weights_hash) == (
        other.step,
        other.average,
        other.weights_hash,
    )
    images = np.arange(2 * 64, dtype=np.uint8).reshape(2, 8, 8, 1)
    ours, theirs = (each.features(images, noise_level=11)["bottleneck"] for each in (run, other))
    np.testing.assert_array_equal(ours, theirs)
    one, two = (jax.tree.leaves(each.state()) for each in (run, other))
    assert all((a == b).all() for a, b in zip(one, two, strict=True))


def test_an_address_opens_like_its_directory_and_is_copied_once(plain, bucket, cache, monkeypatch):
    memory = bucket(plain)
    before = dict(memory.store)
    run = ddaepp_jax.load(ADDRESS)
    assert run.workdir.name == "digits" and run.workdir.is_relative_to(cache)
    check_same(run, ddaepp_jax.load(plain))
    whole = [file.parent.name for file in run.workdir.glob("checkpoints/*/checksums.json")]
    assert whole == ["6"]  # of step 3 there are the meta data alone
    assert not (run.workdir / "metrics.jsonl").exists() and memory.store == before

    monkeypatch.setattr(type(memory), "get_file", None)  # Files would be copied by it.
    check_same(ddaepp_jax.load(ADDRESS), run)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    check_same(ddaepp_jax.load(ADDRESS, step=3), ddaepp_jax.load(plain, step=3))
    by_loss = ddaepp_jax.load(ADDRESS, step="heldout_loss")
    assert by_loss.step == ddaepp_jax.load(plain, step="heldout_loss").step


def test_another_run_at_the_same_address_replaces_the_copy(plain, damaged, bucket):
    bucket(plain)
    assert ddaepp_jax.load(ADDRESS).step == 6
    shutil.rmtree(damaged / "checkpoints" / "6")
    bucket(damaged)
    assert ddaepp_jax.load(ADDRESS).step == 3
    # Retrained, to another checkpoint of the same step.
    checkpoint = damaged / "checkpoints" / "3"
    sums = json.loads((checkpoint / "checksums.json").read_text())
    sums["sha256"]["meta/metadata"] = "0" * 64
    (checkpoint / "checksums.json").write_text(json.dumps(sums))
    bucket(damaged)
    with expect_error("", "checkpoints/3/meta/metadata", "checksum"):
        ddaepp_jax.load(ADDRESS)


def test_an_average_is_combined_from_snapshots_at_an_address(conditional, bucket):
    bucket(conditional)
    run, here = (ddaepp_jax.load(place, sigma_rel=0.06) for place in (ADDRESS, conditional))
    assert run.weights_hash == here.weights_hash and 0 < run.profile_error == here.profile_error


def test_another_process_that_copies_is_waited_for(plain, bucket):
    bucket(plain)
    copy = ddaepp_jax.load(ADDRESS).workdir
    with ThreadPoolExecutor(1) as thread:
        with lock.locked(copy, ""):
            other = thread.submit(ddaepp_jax.load, ADDRESS)
            with pytest.raises(TimeoutError):
                other.result(timeout=1)
        assert other.result(timeout=60).workdir == copy


# ---- zip files ----


@pytest.mark.parametrize("folder", [".", "digits"])
def test_a_zip_file_opens_like_its_directory(folder, plain, tmp_path, monkeypatch):
    """Of the folder, or of what is in it; and by a path relative to the current directory."""
    shutil.copytree(plain, tmp_path / "root" / folder, dirs_exist_ok=True)
    shutil.make_archive(tmp_path / "run", "zip", tmp_path / "root", folder)
    monkeypatch.chdir(tmp_path)
    check_same(ddaepp_jax.load("run.zip"), ddaepp_jax.load(plain))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "root", "run.zip"]


def test_a_folder_that_is_called_like_a_zip_file(plain, tmp_path):
    run = ddaepp_jax.load(shutil.copytree(plain, tmp_path / "run.zip"))
    assert run.workdir == tmp_path / "run.zip"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["notes.txt"], ["no config.json"]),
        (["a/b/config.json"], ["no config.json"]),
        (["a/config.json", "b/config.json"], ["2 config.json", "one"]),
        (["config.json", "checkpoints/../../../escaped"], ["../escaped", "again"]),
        (["config.json", "../escaped"], ["../escaped", "again"]),
        ([], ["cannot be read", "not a zip file"]),
    ],
)
def test_a_zip_file_that_is_no_run(names, words, tmp_path, cache):
    file = tmp_path / "run.zip"
    file.write_bytes(b"no zip file")
    if names:
        with zipfile.ZipFile(file, "w") as archive:
            for name in names:
                archive.writestr(name, "{}")
    with expect_error(f"workdir: {file}", *words):
        ddaepp_jax.load(file)
    assert [*tmp_path.rglob("escaped")] == [] and not cache.exists()


# ---- addresses that cannot be read ----


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("gs://bucket/run", ["gcsfs", "pip"]),
        ("cloud://bucket/run", ["cloud", "address"]),
        ("memory://bucket/nothing", ["no config.json"]),
        ("memory://bucket/run.zip", ["run.zip", "address"]),
    ],
)
def test_an_address_that_cannot_be_read(address, words, bucket, plain, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as if it were not installed
    bucket(plain)
    with expect_error(f"workdir: {address}", *words):
        ddaepp_jax.load(address)


# ---- programs ----


def test_programs_read_an_address_and_write_elsewhere(plain, bucket, tmp_path, capsys):
    memory = bucket(plain)
    before = dict(memory.store)
    sample.main([f"--workdir={ADDRESS}", "--n=4", f"--out={tmp_path / 'ours'}"])
    sample.main([f"--workdir={plain}", "--n=4", f"--out={tmp_path / 'theirs'}"])
    ours, theirs = (np.load(tmp_path / f"{name}.npz")["images"] for name in ("ours", "theirs"))
    np.testing.assert_array_equal(ours, theirs)
    assert memory.store == before


@pytest.mark.parametrize("program", [sample, linear_probe, fid])
def test_a_program_without_out_refuses_an_address(program, plain, tmp_path, bucket, cache):
    bucket(plain)
    for place in (ADDRESS, str(tmp_path / "run.zip")):
        with expect_error("--out", place, "local"):
            program.main([f"--workdir={place}"])
    assert not cache.exists()


def test_a_training_starts_from_an_address(plain, bucket):
    bucket(plain)
    run = ddaepp_jax.load(plain)
    run.config.init_from = ADDRESS
    weights = weights_to_start_from(run.config, run.params)
    jax.tree.map(np.testing.assert_array_equal, weights, run.params)


@pytest.mark.parametrize(
    ("program", "arguments", "field"),
    [
        (main, [TINY, "--workdir=gs://b/run"], "argument --workdir"),
        (find_bottleneck, [TINY, "--steps=1", "--workdir=gs://b/run"], "argument --workdir"),
        (convert, ["--kind=inception-fid", "--workdir=gs://b/run"], "argument --workdir"),
        (sample, ["--workdir=run", "--out=gs://b/images"], "argument --out"),
        (linear_probe, ["--workdir=run", "--out=gs://b/probe"], "argument --out"),
        (fid, ["--workdir=run", "--out=gs://b/fid"], "argument --out"),
        (report, ["--workdir=gs://b/run"], "argument --workdir"),
        (report, ["--workdir=run", "--out=gs://b/page.html"], "argument --out"),
    ],
)
def test_what_is_written_is_on_a_local_disk(program, arguments, field):
    with expect_error(field, "gs://b/", "local", "gcsfuse"):
        program.main(arguments)
