"""``config.diffusion`` becomes a process, ``config.sampling`` a sampler and its guidance."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax import Array
from ml_collections import ConfigDict

from ddaepp_jax.base.choice import choose
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.diffusion import flow_samplers, samplers
from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.diffusion.edm import EDM
from ddaepp_jax.diffusion.flow import Flow
from ddaepp_jax.diffusion.guidance import Guidance
from ddaepp_jax.diffusion.process import Process
from ddaepp_jax.diffusion.vp import VP

PROCESSES: dict[str, type] = {"ddpm": DDPM, "vp": VP, "edm": EDM, "flow": Flow}
_VARIANCE_PRESERVING = {"ddim": samplers.ddim, "ddpm": samplers.ddpm, "dpmpp_2m": samplers.dpmpp_2m}
SAMPLERS: dict[str, dict[str, Callable[..., Array]]] = {
    "ddpm": _VARIANCE_PRESERVING,
    "vp": _VARIANCE_PRESERVING,
    "edm": {"heun": samplers.heun},
    "flow": {
        "euler": flow_samplers.euler,
        "heun_flow": flow_samplers.heun_flow,
        "euler_maruyama": flow_samplers.euler_maruyama,
    },
}


def process(config: ConfigDict) -> Process:
    """Returns the diffusion process.

    Raises:
      InputError: a field of ``config.diffusion`` is wrong.
    """
    fields = config.diffusion.to_dict()
    kind = choose("diffusion.name", fields.pop("name"), PROCESSES)
    choose("diffusion.time_input", fields["time_input"], kind.TIME_INPUTS)
    try:
        return kind(**fields)
    except ValueError as error:
        raise InputError(f"diffusion.{error}") from None


def sampler(
    config: ConfigDict,
    name: str,
    steps: int,
    options: Mapping[str, Any] | None = None,
    group: str = "",
) -> Callable[..., Array]:
    """Returns a sampler of the config's process with its options, all checked before compilation.

    Args:
      options: instead of the config's ``sampling.clip`` and ``sampling.NAME``.
      group: what errors put before "sampler" and "steps": "sampling." where they come from the
        config.

    Raises:
      InputError: the process has no such sampler, steps or option.
    """
    function = choose(f"{group}sampler", name, SAMPLERS[config.diffusion.name])
    noise = process(config)
    try:
        noise.grid(steps)
    except ValueError as error:
        raise InputError(f"{group}steps: {error}") from None
    fields = {"clip": config.sampling.clip, **config.sampling.get(name, {})}
    for option, value in (options or {}).items():
        kind = type(choose("options", option, fields))
        if not isinstance(value, (int, float) if kind is float else kind):
            raise InputError(f"options: {option}={value!r} is not a {kind.__name__}")
    fields |= options or {}
    for option, value in fields.items():
        if isinstance(value, (int, float)) and not value >= 0:
            raise InputError(f"sampling.{name}.{option}: {value} is negative")
        if option == "shift" and not 0 < value < float("inf"):
            raise InputError(
                f"sampling.{name}.shift: {value} is not a positive number; 1 makes even steps"
            )
    if "table" in fields:
        tables = {"standard": None}
        if isinstance(noise, DDPM):
            tables["ddae"] = noise.ddae_alpha_bar
        fields["table"] = choose("sampling.ddim.table", fields["table"], tables)
    return functools.partial(function, **fields)


def guidance(
    image_shape: tuple[int, int, int],
    scale: float,
    interval: Sequence[float],
    channels: int,
    autoguidance: float = 1.0,
    group: str = "",
) -> Guidance:
    """Returns the guidance of samples; see ``Guidance`` for its arguments.

    Args:
      image_shape: (H, W, C) of what is sampled.
      group: what errors put before the names of fields: "sampling." where they come from the
        config.

    Raises:
      InputError: an argument is wrong.
    """
    try:
        values = Guidance(scale, tuple(interval), channels, autoguidance)
    except ValueError as error:
        raise InputError(f"{group}guidance_{error}") from None
    if channels > image_shape[-1]:
        raise InputError(
            f"{group}guidance_channels: {channels}, but images have {image_shape[-1]}; 0 guides all"
        )
    return values


def noise_level(process: Process, level: float | None, field: str) -> np.number:
    """Returns a config's noise level in the type that the process takes.

    Args:
      level: in the process's unit; None is the middle of its probe grid.
      field: the field's name in errors.

    Raises:
      InputError: the process has no such level.
    """
    grid = process.probe_levels()
    try:
        return process.as_level(grid[len(grid) // 2] if level is None else level)
    except ValueError as error:
        raise InputError(f"{field}: {error}") from None
