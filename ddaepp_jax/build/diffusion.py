"""``config.diffusion`` becomes a process, ``config.sampling`` a sampler and its guidance."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jax import Array
from ml_collections import ConfigDict

from ddaepp_jax import config as schema
from ddaepp_jax.config import validation
from ddaepp_jax.base.choice import choose
from ddaepp_jax.diffusion import flow_samplers, samplers
from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.diffusion.edm import EDM
from ddaepp_jax.diffusion.flow import Flow
from ddaepp_jax.diffusion.guidance import Guidance
from ddaepp_jax.diffusion.process import Process
from ddaepp_jax.diffusion.vp import VP
from ddaepp_jax.base.errors import InputError

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
    """The diffusion process."""
    diffusion = config.diffusion
    made = choose("diffusion.name", diffusion.name, PROCESSES)
    validation.check_names("diffusion.", diffusion, schema.PROCESSES[diffusion.name]())
    try:
        return made(**{k: v for k, v in diffusion.items() if k != "name"})
    except ValueError as error:
        raise InputError(f"diffusion.{error}") from None


def sampler(
    config: ConfigDict, name: str, steps: int, options: Mapping[str, Any] | None = None, group: str = ""
) -> Callable[..., Array]:
    """A sampler of the config's process with its options; all is checked here, before anything is
    compiled.

    Args:
      options: instead of the config's ``sampling.clip`` and ``sampling.NAME``.
      group: what errors put before "sampler" and "steps": "sampling." where they come from the
        config.
    """
    chosen = choose(f"{group}sampler", name, SAMPLERS[config.diffusion.name])
    made = process(config)
    try:
        made.grid(steps)
    except ValueError as error:
        raise InputError(f"{group}steps: {error}") from None
    fields = {"clip": config.sampling.clip, **config.sampling.get(name, {})}
    for option, value in (options or {}).items():
        wanted = type(choose("options", option, fields))
        if not isinstance(value, (int, float) if wanted is float else wanted):
            raise InputError(f"options: {option}={value!r} is not a {wanted.__name__}")
    fields |= options or {}
    for option, value in fields.items():
        if isinstance(value, (int, float)) and not value >= 0:
            raise InputError(f"sampling.{name}.{option}: {value} is negative")
        if option == "shift" and not 0 < value < float("inf"):
            raise InputError(f"sampling.{name}.shift: {value} is not a positive number; 1 makes even steps")
    if "table" in fields:
        tables = {"standard": None} | ({"ddae": made.ddae_alpha_bar} if isinstance(made, DDPM) else {})
        fields["table"] = choose("sampling.ddim.table", fields["table"], tables)
    return functools.partial(chosen, **fields)


def guidance(
    image_shape: tuple[int, int, int],
    scale: float,
    interval: Sequence[float],
    channels: int,
    autoguidance: float = 1.0,
    group: str = "",
) -> Guidance:
    """How samples are guided; see ``Guidance``.

    Args:
      group: what errors put before the names of fields: "sampling." where they come from the
        config.
    """
    try:
        made = Guidance(scale, tuple(interval), channels, autoguidance)
    except ValueError as error:
        raise InputError(f"{group}guidance_{error}") from None
    if channels > image_shape[-1]:
        raise InputError(f"{group}guidance_channels: {channels}, but images have {image_shape[-1]}; 0 guides all")
    return made
