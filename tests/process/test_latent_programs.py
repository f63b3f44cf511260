"""From images to decoded samples by the programs, as users run them; a cache that is killed."""

import re
import signal
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.processes import run_together
from helpers.run import NO_EVALS, command, environment

from ddaepp_jax import load
from ddaepp_jax.autoencoders import stored
from ddaepp_jax.autoencoders.kl import AutoencoderKL

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory) -> Path:
    """The directory of an untrained autoencoder, f = 2."""
    directory = tmp_path_factory.mktemp("autoencoder")
    module = AutoencoderKL(channels=8, widths=(8, 8), blocks=1, latent_channels=3, groups=4)
    params = jax.jit(module.init)(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))["params"]
    stored.save(directory, module, params, None, {})
    return directory


def cache(autoencoder: Path, out: Path, *arguments: str) -> list[str]:
    """Returns the command that caches the digits, in batches that take a while in all."""
    data = [f"--autoencoder={autoencoder}", "--data=digits", f"--out={out}"]
    return command("cache_latents", None, *data, "--batch_size=2", *arguments)


def run(arguments: list[str]) -> str:
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def cached(autoencoder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("latents")
    printed = run(cache(autoencoder, out))
    assert re.search(r"GiB of latents 4x4x3 in 2 shards; about \d+ seconds", printed)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_cache_that_is_killed_goes_on_and_is_the_same(autoencoder, cached, tmp_path, number):
    """It ends in the second shard, and keeps the first."""
    arguments = cache(autoencoder, tmp_path, "--split=train")
    first = tmp_path / "train-partial" / "shard-00000.json"
    process = subprocess.Popen(arguments, env=environment(), stderr=subprocess.DEVNULL)
    while not first.exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(timeout=60) == (-9 if number == signal.SIGKILL else 128 + number)
    kept = first.stat().st_mtime_ns
    assert not (tmp_path / "train").exists() and kept
    run(arguments)
    assert contents(tmp_path / "train") == contents(cached / "train")


def test_two_processes_share_the_shards(autoencoder, cached, tmp_path):
    printed = run_together(cache(autoencoder, tmp_path), 2, 1)
    assert "1500 latents are in" in printed[0] and printed[1] == ""
    for split in ("train", "test"):
        assert contents(tmp_path / split) == contents(cached / split)


def test_from_latents_to_scores(autoencoder, cached, tmp_path):
    """It trains, samples, probes and reports, each by the run directory alone."""
    fields = NO_EVALS | dict(
        data__name="latents", data__data_dir=cached, data__autoencoder=autoencoder
    )
    fields |= dict(model__patch_size=2, evals__samples__every=4, data__flip=True)
    workdir = f"--workdir={tmp_path / 'run'}"
    run(command("main", fields, workdir))
    run(command("sample", None, workdir, "--n=4", f"--out={tmp_path / 'four'}"))
    images = np.load(tmp_path / "four.npz")["images"]
    assert images.shape == (4, 8, 8, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(load(tmp_path / "run").sample(n=4), images)
    run(command("linear_probe", None, workdir, "--epochs=2", "--levels=11"))
    run(command("report", None, workdir))
    assert (tmp_path / "run" / "report.html").exists()
    run(command("sample", None, workdir, "--n=4", "--steps=2", "--decode=False"))
