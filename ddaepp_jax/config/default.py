"""The default config, and the functions by which config files change it."""

from collections.abc import Callable
from functools import partial
from typing import Any

from ml_collections import ConfigDict

from ddaepp_jax.base.errors import InputError, shown
from ddaepp_jax.config import schema


def _chosen(group: type, **changes: Any) -> ConfigDict:
    config = schema.defaults(group)
    config.update(changes)
    return config


# Each returns the group ``config.model`` of a network, with changes by keyword; the fields are
# those of the network's class, e.g. ``ddaepp_jax.models.uvit.UViT``.
MODELS = {name: partial(_chosen, group) for name, group in schema.NETWORKS.items()}
uvit, unet, dit = (MODELS[name] for name in ("uvit", "unet", "dit"))
# Each returns the group ``config.diffusion`` of a process; the fields are those of the process's
# class, e.g. ``ddaepp_jax.diffusion.ddpm.DDPM``.
PROCESSES = {name: partial(_chosen, group) for name, group in schema.PROCESSES.items()}
ddpm, vp, edm, flow = (PROCESSES[name] for name in ("ddpm", "vp", "edm", "flow"))


def distillation(**changes: Any) -> ConfigDict:
    """Returns the group ``config.objectives.distillation``, with changes by keyword."""
    return _chosen(schema.Distillation, **changes)


def get_config(variant: str = "") -> ConfigDict:
    """Returns the default config, which trains on handwritten digits.

    Every other config starts from it and changes what differs.

    Args:
      variant: "" or "tiny", a few steps of a tiny network.
    """
    config = schema.defaults(schema.config(schema.NETWORKS["uvit"], schema.PROCESSES["ddpm"]))
    config.model.update(width=64, depth=4, num_heads=2)
    config.diffusion.time_input = "999t/T"
    config.evals.probe.epochs = config.probe.epochs
    return varied(config, variant)


def varied(
    config: ConfigDict, variant: str, **variants: Callable[[ConfigDict], ConfigDict]
) -> ConfigDict:
    """Returns a variant of a config: "" is the config itself, and every config has "tiny".

    Args:
      variants: the config's own variants by name, as functions of it.
    """
    variants |= {"tiny": tiny}
    if variant and not (isinstance(variant, str) and variant in variants):
        raise InputError(
            f"--config: this config has no variant {shown(variant)}; it has {', '.join(variants)}"
        )
    return variants[variant](config) if variant else config


TINY_MODELS = {
    "uvit": dict(width=32, depth=2, num_heads=2, patch_size=2),
    "unet": dict(channels=64, mults=(1, 2), attend=(False, True), blocks=1, bottleneck="out_2"),
    "dit": dict(width=32, depth=2, num_heads=2, patch_size=2, bottleneck="block_1"),
}


def tiny(config: ConfigDict) -> ConfigDict:
    """Shrinks a config to a few steps of a tiny network on the digits, and returns it.

    It runs anywhere in seconds. The config's structure stays.
    """
    config.model.update(TINY_MODELS[config.model.name])
    config.data.update(name="digits", data_dir="", size=(0, 0), split="train", eval_split="test")
    config.data.autoencoder = ""
    config.train.update(steps=4, epochs=None, images=None, batch_size=16)
    config.train.update(steps_per_dispatch=2, log_every=2, checkpoint_every=2)
    config.objectives.distillation.update(hidden=32, embedding=16)
    config.optimizer.warmup_steps = 2
    config.evals.heldout_loss.update(every=4, images=32, levels=3)
    config.evals.samples.update(every=4, n=4)
    config.evals.fid.update(every=0, n=16)  # it would first train a classifier of the data
    config.evals.probe.update(every=4, images=200)
    config.evals.knn.update(every=4, images=200)
    config.evals.features.update(every=4, images=64)
    config.sampling.update(steps=4, batch_size=16, guidance_channels=0)
    return config
