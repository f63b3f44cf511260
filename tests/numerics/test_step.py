"""The train step: random numbers, passes, teachers, averages, and the report of bad steps."""

import dataclasses
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from ddaepp_jax.base import parallel
from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.objectives.denoising import Denoising
from ddaepp_jax.objectives.passes import Pass
from ddaepp_jax.training import ema
from ddaepp_jax.training.program import add_totals, compile_program
from ddaepp_jax.training.source import Source
from ddaepp_jax.training.step import Learner, init_state, run_pass, total_loss, train_step


class Scaled(nn.Module):
    """A network of one parameter: out = scale * x."""

    @nn.compact
    def __call__(self, x, t, y=None, augment_label=None, train=False, capture=None, stop=False):
        return self.param("scale", nn.initializers.ones, ()) * x, OrderedDict()


class Seen:
    """An objective whose metrics are the means of the first and the last image of the batch."""

    teacher_decay = None

    def init(self, rng, shapes):
        return {}

    def passes(self, rng, batch):
        x0 = batch["image"]
        return {"seen": Pass(x0, jnp.zeros_like(x0), jnp.ones(len(x0), jnp.int32))}

    def loss(self, params, teacher_params, results, rng):
        x0, out = results["seen"].request.x0, results["seen"].out
        return jnp.square(out).mean(), {"first": x0[0].mean(), "last": x0[-1].mean()}


def learner(objective):
    objectives = {"denoising": (objective, optax.constant_schedule(1.0))}
    return Learner(Scaled(), DDPM(), objectives, optax.sgd(0.0), (0.9,), False, (), seed=0)


def test_each_step_draws_its_own_noise_and_levels():
    parts = learner(Denoising(DDPM()))
    state = init_state(parts, (2, 2, 1))
    batch = {"image": jnp.zeros((4, 2, 2, 1)), "label": jnp.zeros(4, jnp.int32)}
    states = [state.replace(step=jnp.int32(step)) for step in (0, 1, 2, 0)]
    losses = [float(total_loss(parts, state.params, state, batch)[0]) for state in states]
    assert losses[0] == losses[3] and len(set(losses)) == 3
    skipped = state.replace(step=jnp.int32(0), skipped=jnp.int32(2))
    assert float(total_loss(parts, skipped.params, skipped, batch)[0]) == losses[2]


def test_preparation_of_images_depends_on_the_step_and_their_numbers():
    """The program is traced once, for the names of its metrics and for its compilation."""
    traced = []
    mesh = parallel.make_mesh((1, 1, 1), jax.devices()[:1])
    placed = parallel.replicated(mesh)
    data = {
        "image": jax.device_put(np.zeros((3, 1, 1, 1), np.uint8), placed),
        "label": jax.device_put(np.zeros(3, np.int32), placed),
    }
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed), data
    )
    fetch = lambda data, step: {**data, "index": jnp.array([7, 5, 3]) + step}

    def prepare(images, step, index):
        traced.append(step)
        return {"image": (images + 100.0 * step) + index[:, None, None, None]}

    source = Source(True, (1, 1, 1), shapes, fetch, lambda *_: iter(()))
    program = compile_program(learner(Seen()), mesh, (), source, prepare)
    assert len(traced) == 1
    state = program.init()
    for step in range(3):
        stop = parallel.put(np.int32(step + 1), placed)
        state, totals, _ = program.run(state, program.zeros(), data, stop)
        first, last = (float(totals["sums"][f"denoising/{name}"]) for name in ("first", "last"))
        assert (first, last) == (101 * step + 7, 101 * step + 3)


def test_totals_keep_the_first_bad_step():
    totals = {
        "sums": {"loss": jnp.zeros(())},
        "count": jnp.int32(0),
        "bad_step": jnp.int32(-1),
        "bad_leaves": jnp.zeros(2, bool),
    }
    for step, loss, finite in (
        (4, 1.0, (True, True)),
        (5, 2.0, (True, False)),
        (6, np.nan, (False, False)),
    ):
        metrics = {"loss": jnp.float32(loss), "finite": jnp.array(finite)}
        totals = add_totals(totals, metrics, jnp.int32(step))
    assert int(totals["bad_step"]) == 5 and int(totals["count"]) == 3
    np.testing.assert_array_equal(totals["bad_leaves"], [False, True])


def test_teacher_moves_by_the_decay_of_its_step():
    averages, params = {"own": {"w": jnp.zeros(())}}, {"w": jnp.ones(())}
    teachers = {"own": lambda n: n / 8}
    moved = [ema.update(averages, params, jnp.int32(n), True, teachers) for n in (0, 2, 6)]
    assert [float(average["own"]["w"]) for average in moved] == [1.0, 0.75, 0.25]


def test_losses_are_summed_with_their_weights_at_the_step():
    seen = Seen()
    batch = {"image": jax.random.normal(jax.random.key(0), (4, 2, 2, 1))}
    parts = dataclasses.replace(
        learner(seen), objectives={"a": (seen, lambda n: n / 4), "b": (seen, lambda n: 2.0)}
    )
    state = init_state(parts, (2, 2, 1))
    for step in (0, 3):
        total, metrics = total_loss(parts, state.params, state.replace(step=jnp.int32(step)), batch)
        expected = step / 4 * metrics["a/loss"] + 2 * metrics["b/loss"]
        assert metrics["a/loss"] > 0.1
        np.testing.assert_allclose(total, expected, rtol=1e-6)


class Dropping(nn.Module):
    """A network whose output is 1 with dropout and 0 without."""

    def __call__(self, x, t, y=None, augment_label=None, train=False, capture=None, stop=False):
        return jnp.full_like(x, train), OrderedDict()


def test_students_use_dropout_and_teachers_do_not():
    parts = dataclasses.replace(learner(Seen()), network=Dropping())
    zeros = jnp.zeros((1, 2, 2, 1))
    for teacher, train in (("", 1), ("own", 0)):
        request = Pass(zeros, zeros, jnp.array([3]), teacher=teacher)
        result = run_pass(parts, {}, request, jax.random.key(0))
        np.testing.assert_array_equal(result.out, np.full((1, 2, 2, 1), train))


class Taught(Seen):
    """An objective whose loss is its teacher's mean output plus 10 times its teacher's head."""

    teacher_decay = staticmethod(lambda n: 0.5)

    def init(self, rng, shapes):
        return {"head": jnp.ones(())}

    def passes(self, rng, batch):
        return {"taught": dataclasses.replace(super().passes(rng, batch)["seen"], teacher="taught")}

    def loss(self, params, teacher_params, results, rng):
        return results["taught"].out.mean() + 10 * teacher_params["head"], {}


def test_teachers_pass_uses_its_own_weights_and_has_no_gradient():
    parts = dataclasses.replace(learner(Seen()), objectives={"taught": (Taught(), lambda n: 1.0)})
    state, batch = init_state(parts, (1, 1, 1)), {"image": jnp.ones((2, 1, 1, 1))}
    teacher = jax.tree.map(lambda leaf: 3 * leaf, state.params)
    state = state.replace(ema={**state.ema, "taught": teacher})
    value = lambda params: total_loss(parts, params, state, batch)[0]
    loss, gradient = jax.value_and_grad(value)(state.params)
    np.testing.assert_allclose(loss, 3 * np.sqrt(DDPM().alpha_bar[1]) + 30, rtol=1e-6)
    assert all(leaf == 0 for leaf in jax.tree.leaves(gradient))


def test_averages_include_the_parameters_after_the_step():
    parts = dataclasses.replace(learner(Seen()), optimizer=optax.sgd(0.5))
    state, batch = init_state(parts, (2, 2, 1)), {"image": jnp.ones((4, 2, 2, 1))}
    moved, _ = train_step(parts, state, batch)
    old, new = (tree.params["network"]["scale"] for tree in (state, moved))
    assert abs(new - old) > 0.1 and moved.step == 1
    average = moved.ema["0.9"]["network"]["scale"]
    np.testing.assert_allclose(average, 0.9 * old + 0.1 * new, rtol=1e-6)


class Halved(nn.Module):
    """A network that drops out half of its inputs and half of its products."""

    @nn.compact
    def __call__(self, x, t, y=None, augment_label=None, train=False, capture=None, stop=False):
        drop = lambda x: nn.Dropout(0.5, deterministic=not train)(x)
        return drop(nn.Dense(x.shape[-1])(drop(x))), OrderedDict()


def test_a_batch_in_parts_drops_out_and_learns_what_the_whole_batch_does():
    whole = dataclasses.replace(
        learner(Denoising(DDPM())), network=Halved(), optimizer=optax.sgd(1.0)
    )
    state = init_state(whole, (4, 4, 3))
    keys = jax.random.split(jax.random.key(1))
    batch = {"image": jax.random.normal(keys[0], (12, 4, 4, 3)), "label": jnp.arange(12)}
    new, metrics = train_step(whole, state, batch)
    for parts in (2, 6):
        other, others = train_step(dataclasses.replace(whole, parts=parts), state, batch)
        assert others.keys() == metrics.keys() and others["finite"].all()
        np.testing.assert_allclose(others["loss"], metrics["loss"], rtol=1e-6)
        np.testing.assert_allclose(others["grad_norm"], metrics["grad_norm"], rtol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            other.params,
            new.params,
        )
    # Other masks would have given other gradients.
    reordered = jax.tree.map(lambda array: array[::-1], batch)
    _, others = train_step(whole, state, reordered)
    assert abs(others["grad_norm"] / metrics["grad_norm"] - 1) > 1e-3
