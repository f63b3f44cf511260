"""What is measured in training: which weights, which images know and which are asked, which labels
are drawn.
"""

from types import SimpleNamespace

import jax
import numpy as np
from helpers.run import config

from ddaepp_jax import build, evaluators
from ddaepp_jax.base.parallel import make_mesh
from ddaepp_jax.probing import heads as probes


def parts(**overrides):
    made, mesh = config(**overrides), make_mesh((1, 1, 1), jax.devices()[:1])
    data = build.dataset(made, "train")
    return made, build.learner(made, data.image_shape, data.num_classes, 4), data, mesh


def test_neighbours_and_heads_know_some_images_and_are_asked_of_others():
    made, learner, data, mesh = parts(evals__probe__images=40)
    given = {}

    def accuracy(*features_and_labels):
        given["all"] = features_and_labels
        return 0.25

    measure, name = evaluators._probed(made, "probe", accuracy, learner, data, mesh)
    x, t = np.zeros((1, *data.image_shape), np.float32), np.zeros(1, np.float32)
    params = jax.jit(lambda: learner.network.init(jax.random.key(0), x, t)["params"])()
    assert measure(params) == {name: 25.0}
    known, labels, asked, truth = given["all"]
    fit, held_out = probes.split_rows(len(data), 0.1, made.seed)
    np.testing.assert_array_equal(labels, data.batch(fit[:40])["label"])
    np.testing.assert_array_equal(truth, data.batch(held_out[:40])["label"])
    assert (
        len(known) == len(asked) == 40 and not np.isclose(known[:, None], asked[None]).all(-1).any()
    )


def test_samples_are_of_the_classes_in_turn(monkeypatch):
    drawn = []
    monkeypatch.setattr(evaluators, "make_sample_batch", lambda *_, **__: None)
    monkeypatch.setattr(evaluators, "sample_images", lambda *given: drawn.append(given))
    for conditional in (True, False):
        made, learner, data, mesh = parts(model__class_conditional=conditional)
        evaluators._draw(made, learner, data, mesh)("weights", 12)
    (_, params, seed, ids, labels, _, _), (*_, unlabelled, _, _) = drawn
    assert params == "weights" and seed == made.seed and unlabelled is None
    np.testing.assert_array_equal(ids, np.arange(12))
    np.testing.assert_array_equal(labels, [*range(10), 0, 1])


def test_averages_of_the_first_decay_are_measured():
    made, learner, data, mesh = parts(ema__decays=(0.5, 0.9), evals__features__every=1)
    evaluation = evaluators.evaluators(made, learner, data, None, mesh)["features"]
    params = jax.jit(
        lambda: learner.network.init(jax.random.key(0), np.zeros((1, 8, 8, 1)), np.zeros(1))[
            "params"
        ]
    )()
    others = jax.tree.map(lambda leaf: leaf * np.nan, params)
    state = SimpleNamespace(
        params={"network": others}, ema={"0.9": {"network": others}, "0.5": {"network": params}}
    )
    found = evaluation.measure(state)
    assert found and all(
        name.startswith("ema0.5/") and np.isfinite(value) for name, value in found.items()
    )
