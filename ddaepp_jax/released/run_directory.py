"""Writes released weights as a run directory."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn
from ml_collections import ConfigDict

from ddaepp_jax import build, evaluators
from ddaepp_jax import config as schema
from ddaepp_jax.base.choice import choose
from ddaepp_jax.base.errors import InputError, SaveError, first_line
from ddaepp_jax.config import saved, validation
from ddaepp_jax.models.dit import DiT
from ddaepp_jax.models.unet import UNet
from ddaepp_jax.models.uvit import UViT
from ddaepp_jax.released import NETWORKS
from ddaepp_jax.released.reference import FAMILIES, load_reference, network_of
from ddaepp_jax.training import graft
from ddaepp_jax.training.checkpoint import Checkpoints
from ddaepp_jax.training.saving import check_path
from ddaepp_jax.training.step import init_state

UNFINISHED = "unfinished-conversion"  # what a conversion that was killed leaves in its directory
MODEL_NAMES = {UViT: "uvit", UNet: "unet", DiT: "dit"}


def check_new(workdir: Path) -> None:
    """Checks that a run directory can be made; nothing is written.

    Raises:
      InputError: the directory holds something, or cannot be written, or has a path that
        checkpoints cannot have.
    """
    check_path(workdir)
    try:
        if (workdir / UNFINISHED).exists():
            raise InputError(
                f"--workdir: {workdir} holds a conversion that was stopped; remove it or give "
                "another"
            )
        if workdir.is_symlink() and not workdir.exists():
            raise InputError(f"--workdir: {workdir} links to nothing; give another")
        if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
            raise InputError(f"--workdir: {workdir} exists already; give another")
        home = next(
            path for path in (workdir.absolute(), *workdir.absolute().parents) if path.exists()
        )
    except OSError as error:
        raise InputError(
            f"--workdir: cannot read {workdir} ({error.strerror}); give another"
        ) from None
    if not (home.is_dir() and os.access(home, os.W_OK | os.X_OK)):
        raise InputError(f"--workdir: cannot write {workdir} (in {home}); give another")


def convert(
    kind: str,
    tensors: Mapping[str, Any],
    workdir: Path,
    config: ConfigDict,
    options: Mapping[str, Any],
) -> ConfigDict:
    """Writes a run directory at step 0, with these weights as the network and as all its averages.

    Args:
      kind: one of ``NETWORKS``.
      tensors: tensors of the network, as ``choose_network`` gives them.
      workdir: directory to write, which ``check_new`` has checked.
      config: config of the run; its model is replaced by that of the tensors.
      options: arguments of the reference's class that its tensors do not tell.

    Returns:
      The config that was written.

    Raises:
      InputError: as for ``load_reference``; or an option contradicts the tensors, or the config's
        data do not fit the network, or the directory cannot be written.
    """
    arguments = _arguments(kind, tensors, options)
    try:
        module, variables = load_reference(kind, tensors, **arguments)
    except InputError as error:
        given = ",".join(f"{name}={value}" for name, value in options.items())
        field = f"--checkpoint with --options={given}" if options else "--checkpoint"
        raise InputError(f"{field}: {error}") from None
    config = config.copy_and_resolve_references()
    config.model = _model_config(module)
    validation.validate(config)
    _, input_shape = network_of(kind, **arguments)
    if config.data.name == build.LATENTS:
        image_shape = input_shape
        class_names = tuple(map(str, range(module.num_classes)))
    else:
        image_shape, class_names = build.data_description(config)
    _check_data(config.data.name, image_shape, len(class_names), module, input_shape)
    _write(config, variables["params"], image_shape, class_names, workdir)
    return config


def _arguments(kind: str, tensors: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments that the tensors tell and the options add.

    Raises:
      InputError: an option is no argument, has a wrong value, or contradicts the tensors.
    """
    family = FAMILIES[choose("kind", kind, NETWORKS)]
    try:
        told = family.arguments(tensors)
    except InputError as error:
        raise InputError(f"--checkpoint: {error}") from None
    if options.get("class_dropout_prob") == 0:  # No row of a DiT's table is the null class's.
        told["num_classes"] += 1
    fixed = told.keys() - set(family.GUESSED)
    arguments = told | {name: value for name, value in options.items() if name not in fixed}
    try:
        network = network_of(kind, **arguments)
        for name in fixed & options.keys():
            if network_of(kind, **arguments | {name: options[name]}) != network:
                raise InputError(
                    f"{name}={options[name]}, but the tensors show {told[name]}; leave it out"
                )
    except InputError as error:
        raise InputError(f"{'--options' if options else '--checkpoint'}: {error}") from None
    return arguments


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
    learner = build.learner(config, image_shape, len(class_names), total=1)
    initial = jax.jit(lambda: init_state(learner, image_shape))()
    state, differences = graft.graft(initial, params)
    assert not differences, differences
    meta = {
        "image_shape": image_shape,
        "num_classes": len(class_names),
        "class_names": class_names,
        "network": saved.network_fields(config),
        "step": 0,
        "measured": {},
    }
    with _unfinished(workdir) as unfinished:
        saved.check_run(unfinished, config)
        saved.write_run(unfinished, config)
        checkpoints = Checkpoints(
            unfinished / "checkpoints", config.train.keep_checkpoints, evaluators.better()
        )
        with contextlib.closing(checkpoints):
            checkpoints.save(state, meta)


@contextlib.contextmanager
def _unfinished(workdir: Path) -> Iterator[Path]:
    """Yields a directory in ``workdir`` whose content becomes that of ``workdir`` at the end.

    ``config.json``, by which a run is recognised, is moved last.
    """
    unfinished = workdir / UNFINISHED
    try:
        yield unfinished
        for path in sorted(unfinished.iterdir(), key=lambda path: path.name == "config.json"):
            path.rename(workdir / path.name)
        unfinished.rmdir()
    except (InputError, SaveError):
        raise
    except Exception as error:  # Orbax may raise anything, e.g. if the disk is full.
        raise InputError(
            f"--workdir: cannot write {workdir} ({first_line(error)}); give another"
        ) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
