"""Evaluations of untrained networks, as training makes them."""

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddaepp_jax import build, evaluators
from ddaepp_jax.evaluators import Context
from ddaepp_jax.sampling.settings import Sampling
from ddaepp_jax.training.schedule import Evaluation


def context(config: ConfigDict, mesh: Mesh) -> Context:
    """What the evaluators of a config measure."""
    data = build.dataset(config, config.data.split)
    return Context(
        network=build.network(config, data.image_shape, data.num_classes),
        process=build.process(config),
        data=data,
        held_out=lambda: build.dataset(config, config.data.eval_split),
        mesh=mesh,
        sampling=Sampling.from_config(config.sampling),
        seed=config.seed,
        flip=config.data.flip,
    )


def evaluations(config: ConfigDict, mesh: Mesh) -> dict[str, Evaluation]:
    """The evaluations of a config."""
    return evaluators.make(config.evals, context(config, mesh), config.ema.decays[0])


def untrained(config: ConfigDict, mesh: Mesh) -> Any:
    """Initial parameters of the network of a config."""
    made = context(config, mesh)
    x = np.zeros((1, *made.data.image_shape), np.float32)
    t = np.zeros(1, np.float32)
    return jax.jit(made.network.init)(jax.random.key(0), x, t)["params"]


def state(params: Any, decay: str = "0.999") -> SimpleNamespace:
    """A train state, as far as evaluations read it."""
    return SimpleNamespace(ema={decay: {"network": params}})
