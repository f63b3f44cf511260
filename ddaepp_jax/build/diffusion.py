"""Builds the diffusion process from ``config.diffusion``."""

from ml_collections import ConfigDict

from ddaepp_jax.base.choice import choose
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.diffusion.edm import EDM
from ddaepp_jax.diffusion.flow import Flow
from ddaepp_jax.diffusion.process import Process
from ddaepp_jax.diffusion.vp import VP

PROCESSES: dict[str, type] = {"ddpm": DDPM, "vp": VP, "edm": EDM, "flow": Flow}


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
