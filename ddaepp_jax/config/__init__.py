"""The schema of a run's config, its recipes, its rules, and the form in which a run keeps it."""

from ddaepp_jax.config.schema import (
    MODELS,
    PROCESSES,
    ddpm,
    distillation,
    dit,
    edm,
    flow,
    get_config,
    photometric,
    tiny,
    unet,
    uvit,
    varied,
    vp,
)

__all__ = [
    "MODELS",
    "PROCESSES",
    "ddpm",
    "distillation",
    "dit",
    "edm",
    "flow",
    "get_config",
    "photometric",
    "tiny",
    "unet",
    "uvit",
    "varied",
    "vp",
]
