r"""Checks that this machine's accelerator trains to the numbers of its CPU.

    python benchmarks/backend.py

Small networks of each kind take ten steps of SGD in float32, with products in full precision, on
the accelerator and on the CPU, from the same weights, images and noise. The losses must agree to
1e-4, and each parameter to 1e-3 of what it moved. Rows are appended to ``--out`` as JSON lines, and
the exit code is 1 if a row is over its bounds. Where JAX finds no accelerator, the CPU is compared
with itself.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from machine import machine
from ml_collections import ConfigDict
from tabulate import tabulate
from train_step import SHAPES, compiled, random_images

from ddaepp_jax.base import parallel
from ddaepp_jax.config.overrides import parse_config
from ddaepp_jax.training.sharding import path_names

ROOT = Path(__file__).parents[1]
CONFIGS = ("uvit_cifar.py:tiny", "unet_ddpm_cifar.py:tiny", "dit_s_cifar.py:tiny")
STEPS = 10
LOSS_BOUND = 1e-4  # relative
PARAMETER_BOUND = 1e-3  # of the distance that a parameter moved


def config_of(name: str) -> ConfigDict:
    """Returns a tiny config that trains by SGD, which does not turn rounding into steps."""
    config = parse_config([f"--config={ROOT / 'configs' / name}"])
    config.optimizer.update(
        name="sgd", learning_rate=0.01, schedule="constant", warmup_steps=0, clip_norm=0.0
    )
    config.model.update(dtype="float32", attention="xla")
    return config


def train(config: ConfigDict, device: jax.Device) -> tuple[np.ndarray, Any, Any]:
    """Trains on one device.

    Returns:
      The losses (STEPS,), and the parameters before and after, on the host.
    """
    mesh = parallel.make_mesh((1, 1, 1), [device])
    data = random_images(SHAPES[config.data.name])
    program, source = compiled(config, data, mesh)
    state = program.init()
    start = jax.device_get(state.params)
    batches, losses = source.open(0, STEPS), []
    for step in range(STEPS):
        limit = parallel.put(np.int32(step + 1), parallel.replicated(mesh))
        state, totals, _ = program.run(state, program.zeros(), next(batches), limit)
        losses.append(float(totals["sums"]["loss"]))
    return np.array(losses), start, jax.device_get(state.params)


def moved(start: np.ndarray, end: np.ndarray, other: np.ndarray) -> float:
    """Returns |other - end| over |end - start|, less one rounding."""
    rounding = np.spacing(np.abs(end).max())
    distance = max(float(np.linalg.norm(other - end) - rounding), 0.0)
    return distance / max(float(np.linalg.norm(end - start)), 1e-12)


def compare(name: str) -> dict[str, Any]:
    """Trains a config on the accelerator and on the CPU, and returns the row of differences."""
    config = config_of(name)
    with jax.default_matmul_precision("highest"):
        losses, start, end = train(config, jax.devices()[0])
        cpu_losses, cpu_start, cpu_end = train(config, jax.devices("cpu")[0])
    names = path_names(end)
    errors = jax.tree.leaves(jax.tree.map(moved, cpu_start, cpu_end, end))
    worst = int(np.argmax(errors))
    loss = float(np.abs(losses / cpu_losses - 1).max())
    return {
        "config": name,
        "start_difference": max(
            float(np.abs(a - b).max())
            for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(cpu_start), strict=True)
        ),
        "loss_difference": loss,
        "parameter_difference": errors[worst],
        "parameter": names[worst],
        "agrees": loss <= LOSS_BOUND and errors[worst] <= PARAMETER_BOUND,
        **machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "backend.jsonl"
    )
    args = parser.parse_args()
    rows = []
    for name in CONFIGS:
        rows.append(compare(name))
        with args.out.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    columns = ("config", "device", "loss_difference", "parameter_difference", "agrees")
    print(tabulate([[row[column] for column in columns] for row in rows], columns, "github"))
    sys.exit(not all(row["agrees"] for row in rows))


if __name__ == "__main__":
    main()
