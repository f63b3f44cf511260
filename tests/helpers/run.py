"""Tiny runs for tests: a config's train program on chosen devices, and programs as processes.

The programs compiled last are kept.
"""

import functools
import json
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddaepp_jax import build
from ddaepp_jax import config as schema
from ddaepp_jax.base import parallel
from ddaepp_jax.config import saved as run_config
from ddaepp_jax.training import ema
from ddaepp_jax.training.checkpoint import restore_networks
from ddaepp_jax.training.program import Program, compile_program
from ddaepp_jax.training.source import Source

ROOT = Path(__file__).parents[2]

NO_EVALS = {
    f"evals__{name}__every": 0 for name in ("heldout_loss", "samples", "probe", "knn", "features")
}

PLAIN = dict(
    train__steps=6,
    train__checkpoint_every=3,
    train__steps_per_dispatch=2,
    train__log_every=2,
    optimizer__schedule="constant",  # a run may then be resumed with another length
)

# Trained enough for its layers to differ. Steps have one size, so that averages of different widths
# lie apart.
CONDITIONAL = NO_EVALS | dict(
    model__class_conditional=True,
    train__steps=32,
    train__steps_per_dispatch=8,
    train__checkpoint_every=12,
    optimizer__name="sgd",
    optimizer__schedule="constant",
    optimizer__learning_rate=0.1,
    ema__decays=(0.9, 0.5),
    ema__sigma_rel=(0.05, 0.07, 0.1),
    ema__snapshot_every=3,
)


def config(**overrides) -> ConfigDict:
    """Returns the tiny config of digits; ``__`` in an override's name stands for a dot."""
    tiny = schema.get_config("tiny")
    tiny.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in overrides.items()}
    )
    return tiny


def compiled(
    config: ConfigDict, mesh: tuple[int, int, int] = (1, 1, 1)
) -> tuple[Program, Source, jax.sharding.Mesh]:
    """Compiles the train program of a config on the first devices."""
    return _compiled(run_config.to_json(config), mesh)


@functools.lru_cache(maxsize=16)
def _compiled(config: str, mesh: tuple[int, int, int]) -> tuple[Program, Source, jax.sharding.Mesh]:
    config = run_config.from_json(config, "config.json")
    devices = parallel.make_mesh(mesh, jax.devices()[: int(np.prod(mesh))])
    data = build.dataset(config, config.data.split)
    learner = build.learner(config, data.image_shape, data.num_classes, config.train.steps)
    source = build.source(config, data, devices)
    prepare = build.prepare(config, data.encoding)
    program = compile_program(learner, devices, config.mesh.rules, source, prepare)
    return program, source, devices


def train(config: ConfigDict, mesh: tuple[int, int, int] = (1, 1, 1), stops: tuple[int, ...] = ()):
    """Trains for ``config.train.steps`` steps; a dispatch ends at each of ``stops``.

    Returns:
      The initial state, the final state, and the mean loss of each dispatch, on the host.
    """
    program, source, devices = compiled(config, mesh)
    state = program.init()
    start = jax.device_get(state)
    losses = []
    batches = source.open(0, config.train.steps)
    for stop in stops or range(1, config.train.steps + 1):
        limit = parallel.put(np.int32(stop), parallel.replicated(devices))
        state, totals, _ = program.run(state, program.zeros(), next(batches), limit)
        losses.append(float(totals["sums"]["loss"] / jnp.maximum(totals["count"], 1)))
    return start, jax.device_get(state), losses


def rows(workdir: str | os.PathLike) -> list[dict]:
    """Reads the rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]


def snapshots(
    workdir: Path, step: int, widths: tuple[float, ...] = CONDITIONAL["ema__sigma_rel"]
) -> list:
    """Reads the parameters of a run's snapshots at a step, one tree for each width."""
    everywhere = parallel.replicated(parallel.make_mesh((-1, 1, 1)))
    names = [ema.power_name(width) for width in widths]
    return list(restore_networks(workdir / "snapshots", step, names, everywhere).values())


# ---- programs in processes of their own ----


def command(program: str, fields: dict | None = None, *arguments: object) -> list[str]:
    """Returns the command of a program; ``fields`` override the tiny config as in ``config``."""
    start = [sys.executable, "-m", f"ddaepp_jax.{program}"]
    if fields is not None:
        start.append(f"--config={schema.__file__}:tiny")
        start += [f"--config.{name.replace('__', '.')}={value}" for name, value in fields.items()]
    return [*start, *map(str, arguments)]


def environment(devices: int = 1) -> dict[str, str]:
    """Returns the environment of a process with simulated devices."""
    return os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
