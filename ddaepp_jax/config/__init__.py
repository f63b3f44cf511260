"""The config of a run: its schema and rules, the default, recipes, overrides and the saved form.

This file is itself a config file: the one that runs without ``--config``. It trains a
self-conditioned U-ViT on scikit-learn's handwritten digits: no download, no accelerator, a few
minutes on two CPU cores. ``make demo`` trains ``configs/unet_digits.py``, whose features are
better.

    python -m ddaepp_jax.main --workdir=runs/uvit_digits
"""

from ddaepp_jax.config.default import (
    MODELS,
    PROCESSES,
    TINY_MODELS,
    ddpm,
    distillation,
    dit,
    edm,
    flow,
    get_config,
    tiny,
    unet,
    uvit,
    varied,
    vp,
)
from ddaepp_jax.config.validation import validate

__all__ = [
    "MODELS",
    "PROCESSES",
    "TINY_MODELS",
    "ddpm",
    "distillation",
    "dit",
    "edm",
    "flow",
    "get_config",
    "tiny",
    "unet",
    "uvit",
    "validate",
    "varied",
    "vp",
]
