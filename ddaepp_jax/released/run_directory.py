"""Writes released weights as a run directory."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from ddaepp_jax import build, evaluators
from ddaepp_jax import config as schema
from ddaepp_jax.base.choice import choose
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.config import saved, validation
from ddaepp_jax.models.dit import DiT
from ddaepp_jax.models.unet import UNet
from ddaepp_jax.models.uvit import UViT
from ddaepp_jax.released import NETWORKS
from ddaepp_jax.released.read import network_tensors
from ddaepp_jax.released.reference import FAMILIES, load_reference
from ddaepp_jax.training import graft
from ddaepp_jax.training.checkpoint import Checkpoints
from ddaepp_jax.training.step import init_state

MODEL_NAMES = {UViT: "uvit", UNet: "unet", DiT: "dit"}


def convert(
    kind: str,
    tensors: Mapping[str, np.ndarray],
    workdir: Path,
    config: ConfigDict,
    prefix: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> ConfigDict:
    """Writes a run directory at step 0, with these weights as the network and as all its averages.

    Args:
      kind: one of ``NETWORKS``.
      tensors: tensors of the file.
      workdir: directory to write, which must not hold anything.
      config: config of the run; its model is replaced by that of the tensors.
      prefix: prefix of the network's names in the file; it is found by default.
      options: arguments of the reference's class that its tensors do not tell.

    Returns:
      The config that was written.

    Raises:
      InputError: as for ``load_reference``; or the directory is not empty, or the config's data do
        not fit the network.
    """
    family = FAMILIES[choose("kind", kind, NETWORKS)]
    try:
        own = network_tensors(tensors, family.MARKS, prefix)
        arguments = family.arguments(own) | dict(options or {})
        module, variables = load_reference(kind, own, **arguments)
    except InputError as error:
        raise InputError(f"--checkpoint: {error}") from None
    config = config.copy_and_resolve_references()
    config.model = _model_config(module)
    validation.validate(config)
    input_shape = family.Arguments(**arguments).input_shape
    if config.data.name == build.LATENTS:
        image_shape = input_shape
        class_names = tuple(map(str, range(module.num_classes)))
    else:
        image_shape, class_names = build.data_description(config)
    _check_data(config.data.name, image_shape, len(class_names), module, input_shape)
    _write(config, variables["params"], image_shape, class_names, workdir)
    return config


def _model_config(module: nn.Module) -> ConfigDict:
    """Returns the ``config.model`` that builds a module."""
    name = MODEL_NAMES[type(module)]
    config = schema.MODELS[name]()
    own = [field.name for field in dataclasses.fields(module) if field.name in config]
    fields = {field: getattr(module, field) for field in own}
    fields |= dict(
        name=name, class_conditional=module.num_classes > 0, attention="auto", dtype="float32"
    )
    config.update(fields)
    return config


def _check_data(
    name: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    module: nn.Module,
    input_shape: tuple[int, int, int],
) -> None:
    """Refuses a data set whose images or labels do not fit the network."""
    if isinstance(module, UNet):  # takes any height and width
        input_shape = (*image_shape[:2], input_shape[2])
    if image_shape != input_shape:
        raise InputError(
            f"data.name: {name} has images of shape {image_shape}, but the network takes "
            f"{input_shape}; give other data"
        )
    if module.num_classes not in (0, num_classes):
        raise InputError(
            f"data.name: {name} has {num_classes} classes, but the network has "
            f"{module.num_classes} and the null class; give other data"
        )


def _write(
    config: ConfigDict,
    params: Any,
    image_shape: tuple[int, int, int],
    class_names: Sequence[str],
    workdir: Path,
) -> None:
    """Writes a run directory at step 0, as training would save it."""
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise InputError(f"--workdir: {workdir} exists already; give another")
    learner = build.learner(config, image_shape, len(class_names), total=1)
    initial = jax.jit(lambda: init_state(learner, image_shape))()
    state, differences = graft.graft(initial, params)
    assert not differences, differences
    saved.check_run(workdir, config)
    saved.write_run(workdir, config)
    checkpoints = Checkpoints(
        workdir / "checkpoints", config.train.keep_checkpoints, evaluators.better()
    )
    meta = {
        "image_shape": image_shape,
        "num_classes": len(class_names),
        "class_names": class_names,
        "network": saved.network_fields(config),
        "step": 0,
        "measured": {},
    }
    with contextlib.closing(checkpoints):
        checkpoints.save(state, meta)
