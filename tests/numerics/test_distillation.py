"""Self-distillation: loss and gradients against float64 NumPy, the teacher, passes and weights."""

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
    # Geometric augmentation takes long to compile; the views have tests of their own.
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


def learner(config):
    data = build.dataset(config, config.data.split)
    return build.learner(config, data.image_shape, data.num_classes, config.train.steps)


def head64(params, x, depth, norm):
    """Applies a head in float64."""
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
    """Computes the loss in float64 after MoCo v3's paper (section 3, algorithm 1)."""
    total = 0.0
    for student_feature, teacher_feature in pairs:
        project, predict = objective.projector, objective.predictor
        z = head64(params["projector"], student_feature, project.depth, project.norm)
        q = head64(params["predictor"], z, predict.depth, predict.norm)
        k = head64(teacher["projector"], teacher_feature, project.depth, project.norm)
        q, k = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (q, k))
        logits = q @ k.T / objective.temperature
        cross_entropy = np.log(np.exp(logits).sum(1)) - np.diag(logits)
        total += 2 * objective.temperature * cross_entropy.mean()
    return total


def results_of(objective, pairs):
    """Returns results that have the pairs of features (student's, teacher's)."""
    results = {}
    for suffix, features in zip(objective._directions(), pairs, strict=True):
        for role, feature in zip(("student", "teacher"), features, strict=True):
            captured = OrderedDict(bottleneck=jnp.asarray(feature, jnp.float32))
            results[f"distillation/{role}{suffix}"] = Result(None, None, captured)
    return results


def to32(tree):
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)


def random_inputs(objective, width, batch, seed=0):
    """Draws parameters of student and teacher, none of them zero, and pairs of features."""
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
    params, teacher, pairs = random_inputs(objective, width=20, batch=10)

    def loss(params, pairs):
        results = results_of(objective, pairs)
        return objective.loss(params, to32(teacher), results, jax.random.key(0))

    gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (value, metrics), grads = gradient(to32(params), to32(pairs))
    expected = loss64(objective, params, teacher, pairs)
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    assert 0 <= metrics["accuracy"] <= 1 and 0 < metrics["spread"] < 1.5
    rng = np.random.default_rng(1)
    eps = 1e-5
    for _ in range(3):  # Random directions of parameters and features.
        direction = jax.tree.map(lambda a: rng.normal(size=a.shape), (params, pairs))

        def shifted_loss(e, direction=direction):
            moved = jax.tree.map(lambda a, d: a + e * d, (params, pairs), direction)
            return loss64(objective, moved[0], teacher, moved[1])

        expected = (shifted_loss(eps) - shifted_loss(-eps)) / (2 * eps)
        products = jax.tree.map(lambda g, d: float(np.sum(np.asarray(g) * d)), grads, direction)
        slope = sum(jax.tree.leaves(products))
        np.testing.assert_allclose(slope, expected, rtol=2e-3, atol=2e-5)


def test_loss_of_orthogonal_and_of_equal_keys():
    """It is 2 tau log(1 + (B - 1) e^(-1/tau)) for orthogonal keys, 2 tau log B for equal ones."""
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


def test_heads_have_as_many_parameters_as_moco_v3s():
    """The projector is 768 -> 4096 -> 4096 -> 256, the predictor 256 -> 4096 -> 256.

    There are no biases; every norm but the last has a scale and an offset.
    """

    def count(head, width):
        shapes = jax.eval_shape(head.init, jax.random.key(0), jnp.zeros((2, width)))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    assert count(Head(3, 4096, 256), 768) == 768 * 4096 + 4096 * 4096 + 4096 * 256 + 2 * 2 * 4096
    assert count(Head(2, 4096, 256), 256) == 2 * 256 * 4096 + 2 * 4096
    assert count(Head(2, 32, 8, "none"), 16) == 16 * 32 + 32 + 32 * 8 + 8


def test_teachers_decay_rises_to_one_along_a_cosine():
    """MoCo v3's adjust_moco_momentum is 1 - (1 - m) (1 + cos(pi n / N)) / 2 for n = 1 .. N."""
    decay = TEACHER_SCHEDULES["cosine"](0.99, 200)
    n = np.arange(200)
    expected = 1 - 0.01 * (1 + np.cos(np.pi * (n + 1) / 200)) / 2
    np.testing.assert_allclose([decay(jnp.int32(i)) for i in n], expected, rtol=1e-6)
    assert decay(jnp.int32(199)) == 1 and TEACHER_SCHEDULES["constant"](0.9, 5)(3) == 0.9


def one_step(config):
    """Returns a function that takes a step on one batch, and one that makes the initial state."""
    data = build.dataset(config, config.data.split)
    parts = learner(config)
    prepare = build.prepare(config)
    index = np.arange(config.train.batch_size)
    images, labels = data.gather(index)

    def step(state):
        batch = {"label": jnp.asarray(labels)}
        batch |= prepare(jnp.asarray(images), state.step, jnp.asarray(index))
        return steps.train_step(parts, state, batch)

    return jax.jit(step), jax.jit(lambda: steps.init_state(parts, data.image_shape))


def projector_kernel(state):
    return state.params["objectives"]["distillation"]["projector"]["linear_1"]["kernel"]


@pytest.mark.slow
def test_teacher_with_decay_1_does_not_change_a_bit():
    """No gradient reaches the teacher, while the student moves."""
    step, init = one_step(distilled(teacher_decay=1.0, teacher_schedule="constant"))
    start = init()
    state = step(step(start)[0])[0]
    jax.tree.map(np.testing.assert_array_equal, state.ema["distillation"], start.params)
    assert not np.allclose(projector_kernel(state), projector_kernel(start))


@pytest.fixture(scope="module")
def sgd_step():
    """Returns a step of SGD without warm-up, whose teacher has a decay of 0.75.

    Its heads are single linear layers: a ReLU's kinks would be closer than float32 can step.
    """
    settings = distilled(
        projector_depth=1, predictor_depth=1, teacher_decay=0.75, teacher_schedule="constant"
    )
    settings.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in SGD.items()}
    )
    return one_step(settings)


def test_teacher_moves_by_its_decay_alone(sgd_step):
    step, init = sgd_step
    start = init()
    state = step(start)[0]
    assert np.abs(projector_kernel(state) - projector_kernel(start)).max() > 1e-4
    mean = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, start.params, state.params)
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)
    jax.tree.map(close, state.ema["distillation"], mean)


def test_the_steps_gradient_keeps_the_teacher_fixed(sgd_step):
    """SGD's update is the gradient of the step's loss with the same teacher."""
    step, init = sgd_step
    start = init()
    moved, metrics = step(start)
    gradient = jax.tree.map(lambda a, b: (a - b) / 0.1, start.params, moved.params)
    norm = float(metrics["grad_norm"])
    eps = 1e-3 / norm

    def loss(e):
        params = jax.tree.map(lambda p, g: p + e * g, start.params, gradient)
        return float(step(start.replace(params=params))[1]["loss"])

    assert (loss(eps) - loss(-eps)) / (2 * eps) == pytest.approx(norm**2, rel=5e-3)


def test_weight_zero_is_training_without_distillation():
    """The program is the same, whatever the other fields are."""

    def program(config):
        step, init = one_step(config)
        return str(jax.make_jaxpr(step)(jax.eval_shape(init)))

    plain = program(config())
    assert program(distilled(weight=0.0, symmetric=True, hidden=7)) == plain
    assert program(distilled()) != plain


@pytest.mark.slow
def test_scheduled_weight_of_zero_changes_no_loss():
    _, _, plain_losses = train(config())
    _, state, losses = train(distilled(schedule=((0, 0.0),)))
    np.testing.assert_allclose(losses, plain_losses, rtol=1e-6)
    assert "distillation" in state.params["objectives"]


def test_weights_follow_their_schedule():
    parts = learner(distilled(schedule=((10, 0.0), (30, 1.0), (40, 0.5))))
    _, weight = parts.objectives["distillation"]
    weights = [weight(jnp.int32(n)) for n in (0, 10, 20, 30, 35, 99)]
    np.testing.assert_allclose(weights, [0, 0, 0.25, 0.5, 0.375, 0.25])


@pytest.mark.parametrize(
    ("fields", "students", "teachers"),
    [
        ({}, 2, 1),
        (dict(share_denoising=True), 1, 1),
        (dict(symmetric=True), 3, 2),
        (dict(share_denoising=True, symmetric=True), 2, 2),
    ],
    ids=["default", "shared", "symmetric", "both"],
)
def test_passes_that_a_step_runs(monkeypatch, fields, students, teachers):
    """Each pass runs once: the denoising pass whole, the others up to the bottleneck."""
    results = []
    run_pass = steps.run_pass

    def recording(*args):
        results.append(run_pass(*args))
        return results[-1]

    monkeypatch.setattr(steps, "run_pass", recording)
    step, init = one_step(distilled(**fields))
    jax.eval_shape(step, jax.eval_shape(init))
    runners = [result.request.teacher for result in results]
    assert runners.count("distillation") == teachers and runners.count("") == students
    denoise, *others = results
    assert denoise.request.denoises and denoise.out is not None
    assert all(result.out is None for result in others)
    capture = ("bottleneck",) if fields.get("share_denoising") else ()
    assert denoise.request.capture == capture
    for result in results:
        if result.request.capture:
            assert result.features["bottleneck"].shape == (16, 32)


def test_views_levels_and_labels():
    config = distilled(student_level=5, teacher_level=20, geometric=0.5)
    config.model.update(class_conditional=True, augment_dim=9)
    batch = {"label": jnp.zeros(16, jnp.int32)}
    images = jax.random.randint(jax.random.key(0), (16, 8, 8, 1), 0, 256).astype(jnp.uint8)
    batch |= build.prepare(config)(images, jnp.int32(3), jnp.arange(16))
    objective, _ = learner(config).objectives["distillation"]
    requests = objective.passes(jax.random.key(1), batch)
    student, teacher = requests["distillation/student"], requests["distillation/teacher"]
    assert set(np.asarray(student.level)) == {5} and set(np.asarray(teacher.level)) == {20}
    assert set(np.asarray(student.label)) == {10}  # The null class, as where features are read.
    assert not np.allclose(student.x0, teacher.x0)
    assert not np.allclose(student.noise, teacher.noise)
    np.testing.assert_array_equal(student.x0, batch["views"][0].image)
    np.testing.assert_array_equal(teacher.augment_label, batch["views"][1].augment_label)
    sharing = dataclasses.replace(objective, shared=True, symmetric=True)
    shared = sharing.passes(jax.random.key(1), batch)
    np.testing.assert_array_equal(shared["denoise"].x0, batch["image"])
    np.testing.assert_array_equal(shared["distillation/teacher_back"].x0, batch["image"])
    # Levels are drawn as in training.
    assert len(set(np.asarray(shared["distillation/student_back"].level))) > 4
    config.model.augment_dim = 0
    unconditioned = jax.eval_shape(build.prepare(config), images, jnp.int32(3), jnp.arange(16))
    assert unconditioned["views"][0].augment_label is None


@pytest.mark.parametrize("symmetric", [False, True])
def test_accuracy_and_spread(symmetric):
    """Both metrics agree with their definitions in float64."""
    objective, _ = learner(distilled(symmetric=symmetric)).objectives["distillation"]
    params, teacher, pairs = random_inputs(objective, width=20, batch=10)
    results = results_of(objective, pairs)
    loss = jax.jit(lambda params, teacher: objective.loss(params, teacher, results, None))
    _, metrics = loss(to32(params), to32(teacher))
    expected = {"accuracy": [], "spread": []}
    unit = lambda a: a / np.linalg.norm(a, axis=1, keepdims=True)
    for student_feature, teacher_feature in pairs:
        depth = objective.projector.depth
        z = head64(params["projector"], student_feature, depth, "batch")
        queries = unit(head64(params["predictor"], z, objective.predictor.depth, "batch"))
        keys = unit(head64(teacher["projector"], teacher_feature, depth, "batch"))
        expected["accuracy"].append(((queries @ keys.T).argmax(1) == np.arange(10)).mean())
        expected["spread"].append(unit(z).std(0).mean() * np.sqrt(z.shape[1]))
    for name, values in expected.items():
        np.testing.assert_allclose(metrics[name], np.mean(values), rtol=1e-4)
