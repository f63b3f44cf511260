"""Evaluations in training: their weights, their images for training and testing, their labels."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers.errors import expect_error
from helpers.evaluations import context, evaluations, state, untrained
from helpers.run import config

from ddaepp_jax import evaluators
from ddaepp_jax.base.errors import InputError, NonFiniteError
from ddaepp_jax.base.parallel import make_mesh
from ddaepp_jax.evaluators import fid, samples
from ddaepp_jax.probing import heads
from ddaepp_jax.probing.splits import split_rows
from ddaepp_jax.sampling import draw
from ddaepp_jax.scoring import extractors


def one_device():
    return make_mesh((1, 1, 1), jax.devices()[:1])


def test_heads_are_trained_on_some_images_and_tested_on_others(monkeypatch):
    calls = []

    def accuracy(train, test, protocol, num_classes):
        calls.append((train, test))
        return 0.25

    monkeypatch.setattr(heads, "linear_accuracy", accuracy)
    made = config(evals__probe__images=40)
    measure = evaluations(made, one_device())["probe"].measure
    assert measure(state(untrained(made, one_device()))) == {"ema0.999/bottleneck/t11": 25.0}
    (((train, labels), (test, truth)),) = calls
    data = context(made, one_device()).data
    fit, held_out = split_rows(len(data), 0.1, made.seed)
    np.testing.assert_array_equal(labels, data.batch(fit[:40])["label"])
    np.testing.assert_array_equal(truth, data.batch(held_out[:40])["label"])
    assert len(train) == len(test) == 40
    assert not np.isclose(train[:, None], test[None]).all(-1).any()


def test_samples_are_of_the_classes_in_turn(monkeypatch):
    drawn = []
    images = [(np.zeros((12, 8, 8, 1), np.uint8), "")]
    monkeypatch.setattr(draw, "make_sample_batch", lambda *_, **__: None)
    monkeypatch.setattr(draw, "sample_images", lambda *given: drawn.append(given) or images)
    for conditional in (True, False):
        made = config(model__class_conditional=conditional)
        settings = samples.Settings(every=1, n=12)
        samples.make(settings, context(made, one_device())).measure("weights")
    (_, params, seed, ids, labels, *_), (*_, unlabelled, _, _) = drawn
    assert params == "weights" and seed == made.seed and unlabelled is None
    np.testing.assert_array_equal(ids, np.arange(12))
    np.testing.assert_array_equal(labels, [*range(10), 0, 1])


def test_averages_of_the_first_decay_are_measured():
    made = config(ema__decays=(0.5, 0.9), evals__features__every=1)
    evaluation = evaluations(made, one_device())["features"]
    params = untrained(made, one_device())
    others = jax.tree.map(lambda leaf: leaf * np.nan, params)
    both = state(params, "0.5")
    both.ema["0.9"] = {"network": others}
    both.params = {"network": others}
    values = evaluation.measure(both)
    assert values
    assert all(name.startswith("ema0.5/") and np.isfinite(v) for name, v in values.items())


@pytest.mark.parametrize(
    ("images", "off"),
    [
        (1, {"probe": 6, "knn": 6, "features": 10}),
        (5, {"probe": 6, "knn": 6, "features": 10}),
        (6, {"features": 10}),
    ],
)
def test_evaluations_of_too_few_images_are_off(images, off, capsys):
    """Of six images, five are learned from and one is tested on."""
    made = config()
    of_all = context(made, one_device())
    few = dataclasses.replace(of_all, data=dataclasses.replace(of_all.data, length=images))
    groups = {name: made.evals[name].to_dict() for name in made.evals}
    evaluations = evaluators.make(groups, few, 0.999)
    assert {"probe", "knn", "features"} - set(evaluations) == set(off)
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(
        f"evals.{name} is off: digits train has {images} images, and it needs {fewest}"
        for name, fewest in off.items()
    )
    if "knn" in evaluations:
        (accuracy,) = evaluations["knn"].measure(state(untrained(made, one_device()))).values()
        assert accuracy in (0, 100)


def test_features_that_are_not_finite_are_named():
    made = config()
    params = jax.tree.map(lambda leaf: leaf * np.nan, untrained(made, one_device()))
    by_name = evaluations(made, one_device())
    for name in ("probe", "knn", "features"):
        with pytest.raises(NonFiniteError, match="features of bottleneck/t11 are NaN or infinite"):
            by_name[name].measure(state(params))


def test_scores_need_images_to_compare_with(monkeypatch):
    """Too few are refused before training; so is a missing split for a classifier's accuracy."""
    whole = context(config(), one_device())
    few = dataclasses.replace(whole, data=dataclasses.replace(whole.data, length=5))
    with expect_error("evals.fid.every", "digits train has 5 images", "10", "(0)"):
        fid.make(fid.Settings(every=2), few)

    def missing():
        raise InputError("data.eval_split: digits has no split 'val'")

    monkeypatch.setattr(extractors, "exists", lambda _: False)
    with expect_error("data.eval_split", "'val'"):
        fid.make(fid.Settings(every=2), dataclasses.replace(whole, held_out=missing))
