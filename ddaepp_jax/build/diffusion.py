"""``config.diffusion`` becomes a process, ``config.sampling`` a sampler and its guidance."""

import numpy as np
from ml_collections import ConfigDict

from ddaepp_jax import config as schema
from ddaepp_jax.base.choice import choose
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.config import validation
from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.diffusion.edm import EDM
from ddaepp_jax.diffusion.flow import Flow
from ddaepp_jax.diffusion.process import Process
from ddaepp_jax.diffusion.vp import VP

PROCESSES: dict[str, type] = {"ddpm": DDPM, "vp": VP, "edm": EDM, "flow": Flow}


def process(config: ConfigDict) -> Process:
    """The diffusion process."""
    diffusion = config.diffusion
    made = choose("diffusion.name", diffusion.name, PROCESSES)
    validation.check_names("diffusion.", diffusion, schema.PROCESSES[diffusion.name]())
    choose("diffusion.time_input", diffusion.time_input, made.TIME_INPUTS)
    try:
        return made(**{k: v for k, v in diffusion.items() if k != "name"})
    except ValueError as error:
        raise InputError(f"diffusion.{error}") from None


def noise_level(process: Process, level: float | None, field: str) -> np.number:
    """A config's noise level in the type that the process takes; None is the middle of its probe
    grid.
    """
    grid = process.probe_levels()
    try:
        return process.as_level(grid[len(grid) // 2] if level is None else level)
    except ValueError as error:
        raise InputError(f"{field}: {error}") from None
