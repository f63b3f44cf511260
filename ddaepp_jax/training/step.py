"""One step of training, ``(state, batch) -> (state, metrics)``, and the state that it moves."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax import Array

from ddaepp_jax.base.streams import named
from ddaepp_jax.diffusion.process import Process
from ddaepp_jax.objectives.passes import Pass, Result, united
from ddaepp_jax.training import ema


@struct.dataclass
class TrainState:
    """All that training changes.

    Attributes:
      step: () int32, steps taken.
      params: ``{"network": .., "objectives": {name: heads}}``.
      ema: ``{name of an average: tree like params}``, see ``ddaepp_jax.training.ema``; an
        objective's teacher is the average of the objective's name.
      opt_state: optax's.
    """

    step: Array
    params: Any
    ema: Any
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class Learner:
    """All that training doesn't change: the parts that a step is made of.

    Attributes:
      objectives: name -> (objective, its weight by the number of the step).
      ema_decays, ema_ramp, ema_sigma_rels: see ``ddaepp_jax.training.ema``.
      seed: of every random number of the run.
    """

    network: nn.Module
    process: Process
    objectives: Mapping[str, tuple[Any, optax.Schedule]]
    optimizer: optax.GradientTransformation
    ema_decays: tuple[float, ...]
    ema_ramp: bool
    ema_sigma_rels: tuple[float, ...]
    seed: int

    def stream(self, name: str) -> Array:
        """The key of a named stream of random numbers."""
        return named(jax.random.key(self.seed), name)

    @property
    def teachers(self) -> dict[str, optax.Schedule]:
        """The decay of each teacher, by its objective's name."""
        decays = {name: objective.teacher_decay for name, (objective, _) in self.objectives.items()}
        return {name: decay for name, decay in decays.items() if decay}


def init_state(learner: Learner, image_shape: tuple[int, int, int]) -> TrainState:
    """The state of step 0; pure, so that ``jax.jit`` with output shardings never holds an unsharded
    copy.
    """
    rng = learner.stream("init")
    x, t = jnp.zeros((1, *image_shape)), jnp.zeros((1,))
    variables = learner.network.init(rng, x, t, capture=())
    _, features = jax.eval_shape(learner.network.apply, variables, x, t)
    shapes = {name: feature.shape[1:] for name, feature in features.items()}
    heads = {
        name: objective.init(named(rng, name), shapes)
        for name, (objective, _) in learner.objectives.items()
    }
    params = {"network": variables["params"], "objectives": heads}
    averages = ema.init(params, learner.ema_decays, learner.ema_sigma_rels, tuple(learner.teachers))
    return TrainState(jnp.zeros((), jnp.int32), params, averages, learner.optimizer.init(params))


def _run(learner: Learner, params: Any, given: Pass, dropout_rng: Array) -> Result:
    x_t = learner.process.perturb(given.view, given.noise, given.level)
    x, t = learner.process.inputs(x_t, given.level)
    out, features = learner.network.apply(
        {"params": params},
        x,
        t,
        given.label,
        given.augment_label,
        train=not given.teacher,
        capture=given.capture,
        stop=not given.denoises,
        rngs={"dropout": dropout_rng},
    )
    return Result(given, out, features)


def total_loss(
    learner: Learner, params: Any, state: TrainState, batch: Mapping[str, Array]
) -> tuple[Array, dict[str, Array]]:
    """The weighted sum of the objectives' losses at ``params``, each pass run once; and metrics.

    Args:
      state: its step draws the random numbers, its teachers run theirs.
      batch: as ``train_step``'s.
    """
    rng = jax.random.fold_in(learner.stream("train"), state.step)
    passes: dict[str, Pass] = {}
    for objective, _ in learner.objectives.values():
        for name, given in objective.passes(rng, batch).items():
            passes[name] = united(passes[name], given) if name in passes else given
    results = {}
    for name, given in passes.items():
        weights = state.ema[given.teacher] if given.teacher else params
        results[name] = _run(learner, weights["network"], given, named(rng, f"dropout/{name}"))
    total, metrics = jnp.zeros(()), {}
    for name, (objective, weight) in learner.objectives.items():
        teacher = state.ema[name]["objectives"][name] if name in learner.teachers else {}
        loss, more = objective.loss(
            params["objectives"][name], teacher, results, named(rng, f"loss/{name}")
        )
        total += weight(state.step) * loss
        metrics |= {f"{name}/{key}": value for key, value in {"loss": loss, **more}.items()}
    return total, metrics


def train_step(
    learner: Learner, state: TrainState, batch: Mapping[str, Array]
) -> tuple[TrainState, dict[str, Array]]:
    """One update.

    Args:
      batch: "image" (B, H, W, C) float32 in [-1, 1], "label" (B,) int32 and, where images are
        transformed, "augment_label" (B, D); "views" where an objective compares some.

    Returns:
      The new state, and metrics: scalars by name, and "finite", (number of leaves,) bool: whether
        each leaf's gradient
      is finite.
    """
    loss_fn = lambda params: total_loss(learner, params, state, batch)
    (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    squares = jnp.stack([jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)])
    updates, opt_state = learner.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    averages = ema.update(state.ema, params, state.step, learner.ema_ramp, learner.teachers)
    metrics |= {"loss": loss, "grad_norm": jnp.sqrt(squares.sum()), "finite": jnp.isfinite(squares)}
    return TrainState(state.step + 1, params, averages, opt_state), metrics
