"""The loss against float64 numpy and finite differences; the teacher; what a weight of zero
leaves.
"""

import dataclasses
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.run import config, train

from ddaepp_jax import build
from ddaepp_jax.models.heads import Head, batch_norm
from ddaepp_jax.objectives.distillation import TEACHER_SCHEDULES, contrastive_loss, normalised
from ddaepp_jax.objectives.passes import Result
from ddaepp_jax.training import step as steps

ON = dict(
    objectives__distillation__weight=0.5,
    objectives__distillation__hidden=24,
    objectives__distillation__embedding=12,
    # whose program takes long to compile; the views have a test of their own
    objectives__distillation__geometric=0.0,
)
SGD = dict(
    optimizer__name="sgd",
    optimizer__learning_rate=0.1,
    optimizer__warmup_steps=0,
    optimizer__clip_norm=0.0,
    optimizer__schedule="constant",
)


def distilled(**overrides):
    return config(
        **ON | {f"objectives__distillation__{name}": value for name, value in overrides.items()}
    )


def learner(made):
    data = build.dataset(made, made.data.split)
    return build.learner(made, data.image_shape, data.num_classes, made.train.steps)


# The loss in float64, from MoCo v3's paper (section 3, algorithm 1).


def head64(params, x, depth, norm):
    for i in range(depth):
        linear = params[f"linear_{i + 1}"]
        x = x @ linear["kernel"] + linear.get("bias", 0)
        if norm == "batch":
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
            if i < depth - 1:
                x = x * params[f"norm_{i + 1}_scale"] + params[f"norm_{i + 1}_bias"]
        x = x if i == depth - 1 else np.maximum(x, 0)
    return x


def loss64(objective, params, teacher, pairs):
    total = 0.0
    for student_feature, teacher_feature in pairs:
        project, predict = objective.projector, objective.predictor
        z = head64(params["projector"], student_feature, project.depth, project.norm)
        q = head64(params["predictor"], z, predict.depth, predict.norm)
        k = head64(teacher["projector"], teacher_feature, project.depth, project.norm)
        q, k = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (q, k))
        logits = q @ k.T / objective.temperature
        each = np.log(np.exp(logits).sum(1)) - np.diag(logits)
        total += 2 * objective.temperature * each.mean()
    return total


def results_of(objective, pairs):
    names = [
        (f"distillation/student{n}", f"distillation/teacher{n}") for n in objective._directions()
    ]
    return {
        name: Result(None, None, OrderedDict(bottleneck=jnp.asarray(feature, jnp.float32)))
        for both, features in zip(names, pairs, strict=True)
        for name, feature in zip(both, features, strict=True)
    }


def drawn(objective, width, batch, seed=0):
    """Random parameters of student and teacher, none of them zero, and pairs of features."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: objective.init(jax.random.key(0), {"bottleneck": (width,)}))
    draw = lambda leaf: rng.normal(size=leaf.shape) / np.sqrt(leaf.shape[0])
    params, teacher = (jax.tree.map(draw, shapes) for _ in range(2))
    pairs = [rng.normal(size=(2, batch, width)) + 0.5 for _ in objective._directions()]
    return params, teacher, pairs


VARIANTS = {
    "default": {},
    "symmetric": dict(symmetric=True),
    "without batch norm": dict(norm="none"),
    "without projector": dict(projector_depth=0),
    "without predictor": dict(predictor_depth=0, temperature=1.0),
    "one Linear": dict(projector_depth=1, predictor_depth=1, temperature=0.05),
}


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_loss_and_gradients_against_float64(fields):
    objective, _ = learner(distilled(**fields)).objectives["distillation"]
    params, teacher, pairs = drawn(objective, width=20, batch=10)
    to32 = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)

    def loss(params, pairs):
        return objective.loss(
            params, to32(teacher), results_of(objective, pairs), jax.random.key(0)
        )

    (value, metrics), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
        to32(params), to32(pairs)
    )
    expected = loss64(objective, params, teacher, pairs)
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    assert 0 <= metrics["accuracy"] <= 1 and 0 < metrics["spread"] < 1.5
    rng, eps = np.random.default_rng(1), 1e-5
    for _ in range(3):  # along random directions of parameters and features
        direction = jax.tree.map(lambda a: rng.normal(size=a.shape), (params, pairs))
        ends = [
            jax.tree.map(lambda a, d, e=e: a + e * d, (params, pairs), direction)
            for e in (eps, -eps)
        ]
        high, low = (loss64(objective, moved, teacher, seen) for moved, seen in ends)
        products = jax.tree.map(lambda g, d: float(np.sum(np.asarray(g) * d)), grads, direction)
        np.testing.assert_allclose(
            sum(jax.tree.leaves(products)), (high - low) / (2 * eps), rtol=2e-3, atol=2e-5
        )


def test_loss_of_separate_and_of_equal_keys():
    """Orthogonal keys: 2 tau log(1 + (B - 1) e^(-1/tau)); collapsed ones: 2 tau log B."""
    eye, ones = jnp.eye(6), normalised(jnp.ones((6, 6)))
    loss, accuracy = contrastive_loss(eye, eye, 0.5)
    np.testing.assert_allclose([loss, accuracy], [np.log1p(5 * np.exp(-2)), 1.0], rtol=1e-6)
    np.testing.assert_allclose(contrastive_loss(ones, ones, 0.5)[0], np.log(6), rtol=1e-6)
    assert contrastive_loss(eye, jnp.roll(eye, 1, axis=0), 0.5)[1] == 0


def test_normalised_zeros_have_finite_gradients():
    x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(normalised(x), [[0, 0], [0.6, 0.8]], rtol=1e-6)
    assert jnp.isfinite(jax.grad(lambda x: normalised(x).sum())(x)).all()


def test_batch_norm_is_scale_free_and_centred():
    x = jax.random.normal(jax.random.key(0), (64, 8)) * 5 + 3
    y = batch_norm(x)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(batch_norm(2 * x - 7), y, atol=1e-5)


def test_heads_of_mocov3_have_its_parameters():
    """Projector 768 -> 4096 -> 4096 -> 256, predictor 256 -> 4096 -> 256: no biases, scales but at
    the end.
    """
    count = lambda head, width: sum(
        leaf.size
        for leaf in jax.tree.leaves(
            jax.eval_shape(head.init, jax.random.key(0), jnp.zeros((2, width)))
        )
    )
    assert count(Head(3, 4096, 256), 768) == 768 * 4096 + 4096 * 4096 + 4096 * 256 + 2 * 2 * 4096
    assert count(Head(2, 4096, 256), 256) == 2 * 256 * 4096 + 2 * 4096
    assert count(Head(2, 32, 8, "none"), 16) == 16 * 32 + 32 + 32 * 8 + 8


def test_teachers_decay_goes_to_one_by_a_cosine():
    """MoCo v3's adjust_moco_momentum: 1 - (1 - m) (1 + cos(pi n / N)) / 2, n = 1 .. N after the
    n-th.
    """
    decay = TEACHER_SCHEDULES["cosine"](0.99, 200)
    n = np.arange(200)
    expected = 1 - 0.01 * (1 + np.cos(np.pi * (n + 1) / 200)) / 2
    np.testing.assert_allclose([decay(jnp.int32(i)) for i in n], expected, rtol=1e-6)
    assert decay(jnp.int32(199)) == 1 and TEACHER_SCHEDULES["constant"](0.9, 5)(3) == 0.9


def one_step(made):
    """A step on a batch of the config's, and how the state begins."""
    data, parts = build.dataset(made, made.data.split), learner(made)
    index = np.arange(made.train.batch_size)
    images, labels = data.gather(index)

    def step(state):
        batch = {"label": jnp.asarray(labels)} | build.prepare(made)(
            jnp.asarray(images), state.step, jnp.asarray(index)
        )
        return steps.train_step(parts, state, batch)

    return jax.jit(step), jax.jit(lambda: steps.init_state(parts, data.image_shape))


@pytest.mark.slow
def test_a_teacher_of_decay_1_stays_bit_for_bit():
    """No gradient reaches it while the student moves."""
    step, init = one_step(distilled(teacher_decay=1.0, teacher_schedule="constant"))
    start = init()
    state = step(step(start)[0])[0]
    jax.tree.map(np.testing.assert_array_equal, state.ema["distillation"], start.params)
    first = lambda params: params["objectives"]["distillation"]["projector"]["linear_1"]["kernel"]
    assert not np.allclose(first(state.params), first(start.params))


@pytest.fixture(scope="module")
def sgd_step():
    """A step of SGD without warm-up, whose teacher has a decay of 0.75.

    Heads of one Linear have no ReLU, whose kinks lie closer than float32 can step.
    """
    made = distilled(
        projector_depth=1, predictor_depth=1, teacher_decay=0.75, teacher_schedule="constant"
    )
    made.update_from_flattened_dict({name.replace("__", "."): value for name, value in SGD.items()})
    return one_step(made)


def test_teacher_moves_by_its_decay_alone(sgd_step):
    step, init = sgd_step
    start = init()
    state = step(start)[0]
    first = lambda params: params["objectives"]["distillation"]["projector"]["linear_1"]["kernel"]
    assert np.abs(first(state.params) - first(start.params)).max() > 1e-4
    mean = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, start.params, state.params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.ema["distillation"], mean
    )


def test_the_steps_gradient_holds_the_teacher_fixed(sgd_step):
    """The change that SGD makes, along itself, is the slope of the step's loss with the same
    teacher.
    """
    step, init = sgd_step
    start = init()
    moved, metrics = step(start)
    gradient = jax.tree.map(lambda a, b: (a - b) / 0.1, start.params, moved.params)
    norm = float(metrics["grad_norm"])
    eps = 1e-3 / norm
    losses = [
        float(
            step(
                start.replace(
                    params=jax.tree.map(lambda p, g, e=e: p + e * g, start.params, gradient)
                )
            )[1]["loss"]
        )
        for e in (eps, -eps)
    ]
    assert (losses[0] - losses[1]) / (2 * eps) == pytest.approx(norm**2, rel=5e-3)


def test_weight_zero_is_training_without_it():
    """The program is the same, whatever the other fields are."""

    def program(made):
        step, init = one_step(made)
        return str(jax.make_jaxpr(step)(jax.eval_shape(init)))

    plain = program(config())
    assert program(distilled(weight=0.0, symmetric=True, hidden=7)) == plain
    assert program(distilled()) != plain


@pytest.mark.slow
def test_a_scheduled_zero_changes_no_loss():
    (_, _, plain), (_, scheduled, losses) = train(config()), train(distilled(schedule=((0, 0.0),)))
    np.testing.assert_allclose(losses, plain, rtol=1e-6)
    assert "distillation" in scheduled.params["objectives"]


def test_weights_follow_their_schedule():
    (_, weight) = learner(distilled(schedule=((10, 0.0), (30, 1.0), (40, 0.5)))).objectives[
        "distillation"
    ]
    np.testing.assert_allclose(
        [weight(jnp.int32(n)) for n in (0, 10, 20, 30, 35, 99)], [0, 0, 0.25, 0.5, 0.375, 0.25]
    )


@pytest.mark.parametrize(
    ("fields", "students", "teachers"),
    [
        ({}, 2, 1),
        (dict(shared=True), 1, 1),
        (dict(symmetric=True), 3, 2),
        (dict(shared=True, symmetric=True), 2, 2),
    ],
    ids=["default", "shared", "symmetric", "both"],
)
def test_passes_that_a_step_runs(monkeypatch, fields, students, teachers):
    """Each pass once, the denoiser's whole and the others to the bottleneck."""
    ran, run_pass = [], steps.run_pass

    def recorded(learner, params, given, rng):
        result = run_pass(learner, params, given, rng)
        ran.append((given, result))
        return result

    monkeypatch.setattr(steps, "run_pass", recorded)
    made = distilled(
        symmetric=fields.get("symmetric", False), share_denoising=fields.get("shared", False)
    )
    step, init = one_step(made)
    jax.eval_shape(step, jax.eval_shape(init))
    assert [given.teacher for given, _ in ran].count("distillation") == teachers
    assert [given.teacher for given, _ in ran].count("") == students
    assert [result.out is not None for _, result in ran].count(True) == 1 and ran[0][0].denoises
    assert all(
        result.features["bottleneck"].shape == (16, 32) for given, result in ran if given.capture
    )
    assert ran[0][0].capture == (
        ("bottleneck",) if made.objectives.distillation.share_denoising else ()
    )


def test_views_levels_and_labels():
    made = distilled(student_level=5, teacher_level=20, geometric=0.5)
    made.model.update(class_conditional=True, augment_dim=9)
    parts, batch = learner(made), {"label": jnp.zeros(16, jnp.int32)}
    images = jax.random.randint(jax.random.key(0), (16, 8, 8, 1), 0, 256).astype(jnp.uint8)
    batch |= build.prepare(made)(images, jnp.int32(3), jnp.arange(16))
    objective, _ = parts.objectives["distillation"]
    asked = objective.passes(jax.random.key(1), batch)
    student, teacher = asked["distillation/student"], asked["distillation/teacher"]
    assert set(np.asarray(student.level)) == {5} and set(np.asarray(teacher.level)) == {20}
    assert set(np.asarray(student.label)) == {10}  # the null class: features are read so
    assert not np.allclose(student.x0, teacher.x0) and not np.allclose(
        student.noise, teacher.noise
    )
    np.testing.assert_array_equal(student.x0, batch["views"][0].image)
    np.testing.assert_array_equal(teacher.augment_label, batch["views"][1].augment_label)
    shared = dataclasses.replace(objective, shared=True, symmetric=True).passes(
        jax.random.key(1), batch
    )
    np.testing.assert_array_equal(shared["denoise"].x0, batch["image"])
    np.testing.assert_array_equal(shared["distillation/teacher_back"].x0, batch["image"])
    assert (
        len(set(np.asarray(shared["distillation/student_back"].level))) > 4
    )  # drawn as the denoiser's are
    made.model.augment_dim = 0
    untold = jax.eval_shape(build.prepare(made), images, jnp.int32(3), jnp.arange(16))
    assert untold["views"][0].augment_label is None


@pytest.mark.parametrize("symmetric", [False, True])
def test_accuracy_and_spread_are_what_they_say(symmetric):
    """Against float64: the part of queries whose own key is the nearest, and how wide the
    projections lie.
    """
    objective, _ = learner(distilled(symmetric=symmetric)).objectives["distillation"]
    params, teacher, pairs = drawn(objective, width=20, batch=10)
    to32 = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)
    results = results_of(objective, pairs)
    _, metrics = jax.jit(lambda own, theirs: objective.loss(own, theirs, results, None))(
        to32(params), to32(teacher)
    )
    expected = {"accuracy": [], "spread": []}
    unit = lambda a: a / np.linalg.norm(a, axis=1, keepdims=True)
    for student, taught in pairs:
        z = head64(params["projector"], student, objective.projector.depth, "batch")
        queries = unit(head64(params["predictor"], z, objective.predictor.depth, "batch"))
        keys = unit(head64(teacher["projector"], taught, objective.projector.depth, "batch"))
        expected["accuracy"].append(((queries @ keys.T).argmax(1) == np.arange(10)).mean())
        expected["spread"].append(unit(z).std(0).mean() * np.sqrt(z.shape[1]))
    for name, values in expected.items():
        np.testing.assert_allclose(metrics[name], np.mean(values), rtol=1e-4)
