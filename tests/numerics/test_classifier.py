"""The classifier of a data set learns and resumes; tests/parallel trains it on eight devices."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import serialization
from helpers.errors import expect_error

from ddaepp_jax.base import dispatch
from ddaepp_jax.data.datasets import digits
from ddaepp_jax.scoring import classifier
from ddaepp_jax.scoring.classifier import Recipe

TINY = Recipe(depth=10, width=1, stride=1, batch_size=60)


def mesh(devices):
    return jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])


def trained(saved, devices=1, seed=0, images=600):
    recipe = dataclasses.replace(TINY, images=images)
    return classifier.train(
        digits("train"), recipe, flip=False, seed=seed, mesh=mesh(devices), saved=saved
    )


def distance(ours, theirs):
    """Returns the largest difference between two trees of parameters."""
    apart = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), ours, theirs)
    return max(jax.tree.leaves(apart))


@pytest.mark.slow
def test_it_learns_digits(tmp_path):
    module, params = trained(tmp_path / "saved", images=6000)
    test = digits("test")
    ours = classifier.accuracy(module, params, test, batch_size=128, mesh=mesh(1))
    assert ours > 90
    # 297 images: each counts once, though the last batch is padded.
    images, labels = test.arrays()
    logits = jax.jit(module.apply)({"params": params}, images / np.float32(127.5) - 1)["logits"]
    right = int((np.asarray(logits).argmax(1) == labels).sum())
    assert ours == 100 * right / 297
    assert classifier.accuracy(module, params, test, batch_size=50, mesh=mesh(1)) == ours


def test_a_stopped_training_goes_on_where_it_was_saved(tmp_path, monkeypatch):
    _, whole = trained(tmp_path / "whole")
    saved = tmp_path / "saved"
    replace = classifier.replace

    class Stopped(Exception):
        pass

    def stop(file, content):
        replace(file, content)
        raise Stopped

    monkeypatch.setattr(dispatch, "SAVE_SECONDS", 0)
    monkeypatch.setattr(classifier, "replace", stop)
    for _ in range(4):  # One step each.
        with pytest.raises(Stopped):
            trained(saved)
    monkeypatch.undo()
    steps = []
    make = classifier.make_step

    def counted(*args, **kwargs):
        take = make(*args, **kwargs)
        return lambda *rest: (steps.append(int(rest[-1])), take(*rest))[1]

    monkeypatch.setattr(classifier, "make_step", counted)
    _, resumed = trained(saved)
    assert steps == list(range(4, 10))
    assert distance(whole, resumed) == 0
    steps.clear()
    trained(saved, seed=1)  # Another training doesn't continue this one.
    assert steps == list(range(10))


def test_unlabelled_data_is_refused(tmp_path):
    unlabelled = dataclasses.replace(digits("train"), num_classes=0, class_names=())
    with expect_error("data.name", "digits", "labels"):
        classifier.train(
            unlabelled, TINY, flip=False, seed=0, mesh=mesh(1), saved=tmp_path / "saved"
        )


@pytest.mark.parametrize("content", [b"", b"no training", None])
def test_a_damaged_training_starts_anew(content, tmp_path, capsys):
    saved = tmp_path / "saved"
    state = {"kernel": np.zeros(3)}
    other = {"identity": "same", "number": 7, "state": {"kernel": np.zeros(4)}}
    saved.write_bytes(serialization.msgpack_serialize(other) if content is None else content)
    assert classifier._restored(saved, "same", state) == (0, state)
    assert f"{saved}: damaged" in capsys.readouterr().err
