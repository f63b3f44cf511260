"""One step of training, ``(state, batch) -> (state, metrics)``, and the state that it updates."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax import Array

from ddaepp_jax.base.streams import named
from ddaepp_jax.diffusion.process import Process
from ddaepp_jax.objectives.passes import Pass, Result, merge
from ddaepp_jax.training import ema, parts


@struct.dataclass
class TrainState:
    """Everything that training changes.

    Attributes:
      step: () int32, number of steps taken.
      params: ``{"network": .., "objectives": {name: heads}}``.
      ema: averages of ``params`` by name (see ``ddaepp_jax.training.ema``); an objective's teacher
        is the average that has the objective's name.
      opt_state: optax's state.
      skipped: () int32, number of batches that the run has left out (see
        ``ddaepp_jax.training.rollback``).
    """

    step: Array
    params: Any
    ema: Any
    opt_state: Any
    skipped: Array

    @property
    def number(self) -> Array:
        """() int32, the number of the next batch, which determines the step's random numbers."""
        return self.step + self.skipped


@dataclasses.dataclass(frozen=True)
class Learner:
    """Everything that a step uses and training does not change.

    Attributes:
      objectives: objectives by name, each with its weight as a function of the step.
      ema_decays, ema_ramp, ema_sigma_rels: see ``ddaepp_jax.training.ema``.
      seed: determines every random number of the run.
      parts: number of parts that a batch is taken in. With several, each objective's loss has to be
        a mean over examples.
    """

    network: nn.Module
    process: Process
    objectives: Mapping[str, tuple[Any, optax.Schedule]]
    optimizer: optax.GradientTransformation
    ema_decays: tuple[float, ...]
    ema_ramp: bool
    ema_sigma_rels: tuple[float, ...]
    seed: int
    parts: int = 1

    def stream(self, name: str) -> Array:
        """Returns the key of a named random stream."""
        return named(jax.random.key(self.seed), name)

    def step_rng(self, number: Array) -> Array:
        """Returns the key of the random numbers of the step that takes this batch."""
        return jax.random.fold_in(self.stream("train"), number)

    @property
    def teachers(self) -> dict[str, optax.Schedule]:
        """The decay of each teacher, by the name of its objective."""
        decays = {name: objective.teacher_decay for name, (objective, _) in self.objectives.items()}
        return {name: decay for name, decay in decays.items() if decay}


def init_state(learner: Learner, image_shape: tuple[int, int, int]) -> TrainState:
    """Makes the state of step 0.

    It is a pure function, so that under ``jax.jit`` with output shardings no unsharded copy exists.
    """
    rng = learner.stream("init")
    x, t = jnp.zeros((1, *image_shape), jnp.float32), jnp.zeros((1,), jnp.float32)
    variables = learner.network.init(rng, x, t, capture=())
    _, features = jax.eval_shape(learner.network.apply, variables, x, t)
    shapes = {name: feature.shape[1:] for name, feature in features.items()}
    heads = {
        name: objective.init(named(rng, name), shapes)
        for name, (objective, _) in learner.objectives.items()
    }
    params = {"network": variables["params"], "objectives": heads}
    averages = ema.init(params, learner.ema_decays, learner.ema_sigma_rels, tuple(learner.teachers))
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, averages, learner.optimizer.init(params), zero)


def run_pass(learner: Learner, params: Any, request: Pass, dropout_rng: Array) -> Result:
    """Runs one pass through the network with the parameters ``params``."""
    x_t = learner.process.perturb(request.x0, request.noise, request.level)
    x, t = learner.process.inputs(x_t, request.level)
    out, features = learner.network.apply(
        {"params": params},
        x,
        t,
        request.label,
        request.augment_label,
        train=not request.teacher,
        capture=request.capture,
        stop=not request.denoises,
        rngs={"dropout": dropout_rng},
    )
    return Result(request, out, features)


def total_loss(
    learner: Learner, params: Any, state: TrainState, batch: Mapping[str, Array]
) -> tuple[Array, dict[str, Array]]:
    """Computes the weighted sum of the objectives' losses at ``params``.

    A pass that several objectives request runs once.

    Args:
      state: its number determines the random numbers, its averages are the teachers' parameters.
      batch: see ``train_step``.

    Returns:
      The loss, and metrics: scalars by name.
    """
    requests = _requests(learner, learner.step_rng(state.number), batch)
    return _loss_of_passes(learner, params, state, requests)


def _loss_of_passes(
    learner: Learner, params: Any, state: TrainState, requests: Mapping[str, Pass]
) -> tuple[Array, dict[str, Array]]:
    rng = learner.step_rng(state.number)
    results = {}
    for name, request in requests.items():
        weights = state.ema[request.teacher] if request.teacher else params
        dropout_rng = named(rng, f"dropout/{name}")
        results[name] = run_pass(learner, weights["network"], request, dropout_rng)
    total, metrics = jnp.zeros((), jnp.float32), {}
    for name, (objective, weight) in learner.objectives.items():
        heads = params["objectives"][name]
        teacher_heads = state.ema[name]["objectives"][name] if name in learner.teachers else {}
        loss, more = objective.loss(heads, teacher_heads, results, named(rng, f"loss/{name}"))
        total += weight(state.step) * loss
        metrics |= {f"{name}/{key}": value for key, value in {"loss": loss, **more}.items()}
    return total, metrics


def _requests(learner: Learner, rng: Array, batch: Mapping[str, Array]) -> dict[str, Pass]:
    """Returns the passes that the objectives request, by name, each of them once."""
    requests: dict[str, Pass] = {}
    for objective, _ in learner.objectives.values():
        for name, request in objective.passes(rng, batch).items():
            requests[name] = merge(requests[name], request) if name in requests else request
    return requests


def teacher_passes(
    learner: Learner, state: TrainState, batch: Mapping[str, Array]
) -> list[Array | dict[str, Array]]:
    """Runs the passes of a step through teachers alone; returns their outputs and features."""
    rng = learner.step_rng(state.number)
    results = [
        run_pass(learner, state.ema[request.teacher]["network"], request, named(rng, name))
        for name, request in _requests(learner, rng, batch).items()
        if request.teacher
    ]
    return [(result.out, result.features) for result in results]


def train_step(
    learner: Learner, state: TrainState, batch: Mapping[str, Array]
) -> tuple[TrainState, dict[str, Array]]:
    """Takes one step.

    Args:
      batch: "image" (B, H, W, C) float32 in [-1, 1]; "label" (B,) int32; "augment_label" (B, D)
        where images are transformed; "views" where an objective compares views.

    Returns:
      The new state, and metrics: scalars by name, and "finite", (number of leaves,) bool, which
      tells whether the gradient of each leaf is finite.
    """
    loss_fn = lambda params, requests: _loss_of_passes(learner, params, state, requests)
    gradient = partial(jax.value_and_grad(loss_fn, has_aux=True), state.params)
    requests = _requests(learner, learner.step_rng(state.number), batch)
    (loss, metrics), grads = parts.mean(gradient, requests, learner.parts)
    squares = jnp.stack([jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)])
    updates, opt_state = learner.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    averages = ema.update(state.ema, params, state.step, learner.ema_ramp, learner.teachers)
    metrics |= {"loss": loss, "grad_norm": jnp.sqrt(squares.sum()), "finite": jnp.isfinite(squares)}
    return TrainState(state.step + 1, params, averages, opt_state, state.skipped), metrics
