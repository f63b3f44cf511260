"""A run moves between devices as it goes on, and goes on from any checkpoint."""

import shutil

import jax
import numpy as np
import pytest
from helpers.run import NO_EVALS, config, rows
from helpers.same import SGD, check_same

from ddaepp_jax import build, load
from ddaepp_jax.base import parallel
from ddaepp_jax.run.train import train_and_evaluate
from ddaepp_jax.training.checkpoint import steps_of

FIELDS = NO_EVALS | SGD | dict(train__log_every=1, train__checkpoint_every=1)


@pytest.fixture
def train_on(monkeypatch):
    """Returns a function that trains a run up to a step on the first devices."""

    def train(workdir, devices, steps, **fields):
        mesh = parallel.make_mesh((1, devices, 1), jax.devices()[:devices])
        monkeypatch.setattr(build, "mesh", lambda config: mesh)
        fields = FIELDS | dict(train__steps=steps, train__keep_checkpoints=10) | fields
        return jax.device_get(train_and_evaluate(config(**fields), workdir))

    return train


def result(workdir, start):
    """Returns what ``check_same`` compares."""
    losses = [row["loss"] for row in rows(workdir)]
    return start, jax.device_get(load(workdir).state()), losses


@pytest.mark.slow
def test_a_run_on_8_4_1_and_8_devices_is_that_of_one(train_on, tmp_path):
    """Data and noise come in the same order, or else the losses would differ."""
    for devices, steps in ((8, 1), (4, 2), (1, 4), (8, 5)):
        train_on(tmp_path / "moved", devices, steps)
    train_on(tmp_path / "one", 1, 5)
    start = jax.device_get(load(tmp_path / "one", step=1).state())
    check_same(result(tmp_path / "one", start), result(tmp_path / "moved", start))


@pytest.mark.parametrize("step", [1, 3])
def test_a_run_goes_on_from_an_earlier_checkpoint(train_on, tmp_path, step):
    """Newer checkpoints are moved away; on the same devices all numbers are the same."""
    run = tmp_path / "run"
    whole = train_on(run, 8, 5)
    before = [row["loss"] for row in rows(run)]
    (tmp_path / "aside").mkdir()
    for newer in steps_of(run / "checkpoints"):
        if newer > step:
            shutil.move(run / "checkpoints" / str(newer), tmp_path / "aside" / str(newer))
    again = train_on(run, 8, 5)
    jax.tree.map(np.testing.assert_array_equal, again, whole)
    assert [row["loss"] for row in rows(run)] == before
