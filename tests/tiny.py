"""A tiny learner for tests: the config's own path, on chosen devices, in float32."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddaepp_jax import build
from ddaepp_jax import config as schema
from ddaepp_jax.training import sharding
from ddaepp_jax.training.program import Program, compile_program
from ddaepp_jax.training.source import Source


def config(**overrides) -> ConfigDict:
    """The tiny digits run; overrides by dotted name, dots written as two underscores."""
    made = schema.get_config("tiny")
    made.update_from_flattened_dict({name.replace("__", "."): value for name, value in overrides.items()})
    return made


def compiled(config: ConfigDict, mesh: tuple[int, int, int] = (1, 1, 1)) -> tuple[Program, Source, jax.sharding.Mesh]:
    """The train program of a config on the first devices."""
    made = sharding.make_mesh(mesh, jax.devices()[: int(np.prod(mesh))])
    data = build.dataset(config, config.data.split)
    learner = build.learner(config, data.image_shape, data.num_classes, config.train.steps)
    source = build.source(config, data, made)
    return compile_program(learner, made, config.mesh.rules, source, build.prepare(config)), source, made


def run(config: ConfigDict, mesh: tuple[int, int, int] = (1, 1, 1), stops: tuple[int, ...] = ()):
    """The initial and final state of ``config.train.steps`` steps, and the mean loss of each dispatch; on the host."""
    program, source, made = compiled(config, mesh)
    state, losses = program.init(), []
    start = jax.device_get(state)
    batches = source.open(0, config.train.steps)
    for stop in stops or range(1, config.train.steps + 1):
        limit = sharding.put(np.int32(stop), sharding.replicated(made))
        state, totals, _ = program.run(state, program.zeros(), next(batches), limit)
        losses.append(float(totals["sums"]["loss"] / jnp.maximum(totals["count"], 1)))
    return start, jax.device_get(state), losses
