"""Samplers: functions of a denoiser, each one ``lax.scan`` over a fixed grid of noise levels.

Each module of this package registers its samplers, see ``ddaepp_jax.diffusion.samplers.registry``.
"""

import importlib
import pkgutil

from ddaepp_jax.diffusion.samplers.registry import SAMPLERS, Sampler, levels, make, names, register

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["SAMPLERS", "Sampler", "levels", "make", "names", "register"]
