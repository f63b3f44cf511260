"""A run directory is one run's: its data, its network, and one process at a time; a stopped run
goes on as if it had not been stopped.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers.errors import expect_error
from helpers.run import NO_EVALS, PLAIN, config, rows

from ddaepp_jax import build, load
from ddaepp_jax.base.errors import Stopped
from ddaepp_jax.base.lock import locked
from ddaepp_jax.base.stop import Stop
from ddaepp_jax.run import train as run_train
from ddaepp_jax.run.train import train_and_evaluate
from ddaepp_jax.training import checkpoint


def other_data(change):
    """Returns ``build.dataset`` with another training split."""
    dataset = build.dataset

    def changed(config, split, *download):
        data = dataset(config, split, *download)
        return change(data) if split == "train" else data

    return changed


def darker(data):
    return dataclasses.replace(data, read=lambda ids: (data.read(ids)[0] // 2, data.read(ids)[1]))


def other_labels(data):
    return dataclasses.replace(data, read=lambda ids: (data.read(ids)[0], data.read(ids)[1][::-1]))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda data: dataclasses.replace(data, length=len(data) - 1), "images: 1500 -> 1499"),
        (
            lambda data: dataclasses.replace(data, class_names=tuple("abcdefghij")),
            "class_names: ['0', '1'",
        ),
        (
            lambda data: dataclasses.replace(
                data, num_classes=11, class_names=(*data.class_names, "x")
            ),
            "num_classes: 10 -> 11",
        ),
        (darker, "fingerprint: "),
        (other_labels, "fingerprint: "),
    ],
    ids=["count", "names", "classes", "pixels", "labels"],
)
def test_other_data_are_refused_before_compiling(damaged, monkeypatch, change, word):
    before = sorted(damaged.rglob("*"))
    written = (damaged / "config.json").read_text()
    monkeypatch.setattr(run_train.build, "dataset", other_data(change))
    monkeypatch.setattr(run_train, "compile_fitting", None)
    with expect_error("data.data_dir", f"{damaged}", word, "--workdir"):
        train_and_evaluate(config(**PLAIN | NO_EVALS), damaged)
    assert {file.name for file in set(damaged.rglob("*")) - set(before)} <= {".lock"}
    assert (damaged / "config.json").read_text() == written


def test_an_older_checkpoint_without_a_fingerprint_is_compared_by_what_it_has(damaged, monkeypatch):
    for file in damaged.glob("checkpoints/*/meta/metadata"):
        meta = json.loads(file.read_text())
        for name in ("fingerprint", "images", "network"):
            del meta[name]
        file.write_text(json.dumps(meta))
    for file in damaged.glob("checkpoints/*/checksums.json"):
        file.unlink()
    monkeypatch.setattr(run_train, "compile_fitting", None)
    with monkeypatch.context() as patch:
        names = lambda data: dataclasses.replace(data, class_names=tuple("abcdefghij"))
        patch.setattr(run_train.build, "dataset", other_data(names))
        with expect_error("data.data_dir", "class_names"):
            train_and_evaluate(config(**PLAIN | NO_EVALS), damaged)
    monkeypatch.setattr(run_train.build, "dataset", other_data(darker))
    with pytest.raises(TypeError):  # It gets to the compilation.
        train_and_evaluate(config(**PLAIN | NO_EVALS), damaged)


def test_one_training_at_a_time(damaged):
    before = (damaged / "metrics.jsonl").read_text()
    with locked(damaged, ""), expect_error(f"{damaged}", "process", "--workdir"):
        train_and_evaluate(config(**PLAIN | dict(train__log_every=1)), damaged)
    assert (damaged / "metrics.jsonl").read_text() == before
    assert json.loads((damaged / "config.json").read_text())["train"]["log_every"] == 2


@pytest.mark.parametrize(
    ("group", "field", "value"),
    [
        ("model", "num_heads", 4),
        ("model", "skip", False),
        ("model", "self_condition", False),
        ("model", "bottleneck", "in_1"),
        ("diffusion", "beta_end", 0.03),
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_an_edited_config_does_not_open_other_weights(damaged, group, field, value, old):
    """The checkpoint says what its weights mean; one of an older version has at least shapes."""
    fields = json.loads((damaged / "config.json").read_text())
    assert fields[group][field] != value
    fields[group][field] = value
    (damaged / "config.json").write_text(json.dumps(fields))
    if old:
        for file in damaged.glob("checkpoints/*/meta/metadata"):
            file.write_text(json.dumps(json.loads(file.read_text()) | {"network": {}}))
        for file in damaged.glob("checkpoints/*/checksums.json"):
            file.unlink()
        if field in ("num_heads", "bottleneck", "beta_end"):
            load(damaged)  # Nothing tells.
            return
    with expect_error(f"{damaged / 'config.json'}", "back"):
        load(damaged)


def test_weights_that_are_not_finite_are_named(damaged, monkeypatch):
    restore = checkpoint.restore_networks

    def with_nan(*args):
        networks = restore(*args)
        return {
            name: jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].set(np.nan), network)
            for name, network in networks.items()
        }

    monkeypatch.setattr(checkpoint, "restore_networks", with_nan)
    with expect_error(f"{damaged}: step 6", "1 of the", "--step"):
        load(damaged)


class StopAt(Stop):
    """A signal that comes as soon as the loop has asked ``after`` times."""

    after = 0

    @property
    def requested(self):
        self.after -= 1
        return 15 if self.after < 0 else 0

    @requested.setter
    def requested(self, value):
        pass


def losses(directory):
    """Returns the rows of the training loss, without the speed, which differs from run to run."""
    speed = ("images_per_second_per_device", "mfu")
    return [
        {name: value for name, value in row.items() if name not in speed}
        for row in rows(directory)
        if "loss" in row
    ]


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(plain, tmp_path, monkeypatch):
    """It stops at step 1, between two logged steps."""
    fields = PLAIN | NO_EVALS | dict(train__steps_per_dispatch=1)
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="step 1, ") as ended:
        patch.setattr(StopAt, "after", 1)
        patch.setattr(run_train.loop, "Stop", StopAt)
        train_and_evaluate(config(**fields), tmp_path / "run")
    assert ended.value.exit_code == 128 + 15
    state = train_and_evaluate(config(**fields), tmp_path / "run")
    whole = load(plain).state()
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(whole))
    assert losses(tmp_path / "run") == losses(plain)
