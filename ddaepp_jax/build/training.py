"""Builds objectives, optimizer, averages and the device mesh from a config."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddaepp_jax.base import parallel
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.build.diffusion import process
from ddaepp_jax.build.networks import network
from ddaepp_jax.data import order
from ddaepp_jax.diffusion.process import Process, level_of
from ddaepp_jax.models import heads
from ddaepp_jax.objectives.denoising import Denoising
from ddaepp_jax.objectives.distillation import TEACHER_SCHEDULES, Distillation
from ddaepp_jax.training import clock, optimizer
from ddaepp_jax.training.step import Learner


def objectives(
    config: ConfigDict, process: Process, null_class: int | None, total: int
) -> dict[str, tuple[Any, optax.Schedule]]:
    """Returns the objectives of non-zero weight by name, with the weight as a function of the step.

    Args:
      null_class: the class that stands for no label; None for a network without labels.
      total: steps of the run.
    """
    groups = config.objectives
    denoising = Denoising(process, null_class, groups.denoising.label_dropout)
    made: dict[str, Any] = {"denoising": denoising}
    if groups.distillation.weight:
        made["distillation"] = _distillation(config, denoising, total)
    return {
        name: (objective, _weight(groups[name].weight, groups[name].schedule))
        for name, objective in made.items()
        if groups[name].weight
    }


def _weight(weight: float, points: Sequence[tuple[float, float]]) -> optax.Schedule:
    """Returns ``weight`` times lines between (step, factor) points; constant without points."""
    if not points:
        return optax.constant_schedule(weight)

    def schedule(step: Any) -> Any:
        steps, factors = zip(*points, strict=True)
        return weight * jnp.interp(
            step, jnp.array(steps, jnp.float32), jnp.array(factors, jnp.float32)
        )

    return schedule


def _distillation(config: ConfigDict, denoising: Denoising, total: int) -> Distillation:
    fields = config.objectives.distillation

    def level(name: str) -> Any:
        field = f"objectives.distillation.{name}"
        return level_of(denoising.process, fields[name], field)

    schedule = TEACHER_SCHEDULES[fields.teacher_schedule]
    return Distillation(
        denoising=denoising,
        shared=fields.share_denoising,
        student_level=level("student_level"),
        teacher_level=level("teacher_level"),
        symmetric=fields.symmetric,
        projector=heads.Head(fields.projector_depth, fields.hidden, fields.embedding, fields.norm),
        predictor=heads.Head(fields.predictor_depth, fields.hidden, None, fields.norm),
        temperature=fields.temperature,
        teacher_decay=schedule(fields.teacher_decay, total),
    )


def total_steps(config: ConfigDict, num_examples: int) -> int:
    """Returns the length of the run in steps.

    Args:
      num_examples: images of the training split.

    Raises:
      InputError: the run sees more images than the order of examples has numbers.
    """
    train = config.train
    field = next(name for name in ("steps", "epochs", "images") if train[name] is not None)
    most = min(order.max_steps(train.batch_size), 2**31 - 1)
    total = clock.total_steps(
        steps=train.steps,
        epochs=train.epochs,
        images=train.images,
        batch_size=train.batch_size,
        num_examples=num_examples,
    )
    if not total < most:  # An infinite length gives NaN.
        raise InputError(
            f"train.{field}: {train[field]} is too much; a run has fewer than 2**31 steps, and "
            "less than 2**32 images; train for fewer"
        )
    return int(total)


def unreached(config: ConfigDict, total: int) -> Iterator[str]:
    """Yields a line for each field that names a step which a run of ``total`` steps never takes.

    None of them is an error: a run may be resumed with more steps.
    """
    warmup, profile = config.optimizer.warmup_steps, config.profile
    if warmup >= total:
        yield (
            f"optimizer.warmup_steps: {warmup} steps are the whole run of {total}, so the learning "
            "rate never reaches optimizer.learning_rate; lower it, or train for longer"
        )
    for name, objective in config.objectives.items():
        points = objective.schedule
        if objective.weight and points and points[-1][0] > total:
            yield (
                f"objectives.{name}.schedule: the run of {total} steps ends before the last point, "
                f"at step {points[-1][0]:g}"
            )
    if profile.steps and profile.start >= total:
        yield f"profile.start: {profile.start}, but the run has {total} steps; nothing is traced"


def learner(
    config: ConfigDict, image_shape: tuple[int, int, int], num_classes: int, total: int
) -> Learner:
    """Returns all parts of the train step.

    Args:
      image_shape: (H, W, C) of the data's images.
      num_classes: number of the data's classes; 0 without labels.
      total: steps of the run.

    Raises:
      InputError: a field is wrong, or does not fit the data.
    """
    noise = process(config)
    null_class = num_classes if config.model.class_conditional else None
    rule = config.optimizer.to_dict()
    rate = optimizer.learning_rate(
        rule.pop("learning_rate"), rule.pop("schedule"), rule.pop("warmup_steps"), total
    )
    made = objectives(config, noise, null_class, total)
    return Learner(
        network=network(config, image_shape, num_classes),
        process=noise,
        objectives=made,
        optimizer=optimizer.make_optimizer(learning_rate=rate, **rule),
        ema_decays=tuple(config.ema.decays),
        ema_ramp=config.ema.ramp,
        ema_sigma_rels=tuple(config.ema.sigma_rel),
        seed=config.seed,
        parts=_parts(config, made),
    )


def _parts(config: ConfigDict, objectives: Mapping[str, tuple[Any, Any]]) -> int:
    """Returns the number of parts that a batch is taken in, 1 where it is to be found.

    Raises:
      InputError: an objective needs the whole batch.
    """
    parts = max(1, config.train.accumulate)
    for name, (objective, _) in objectives.items():
        if parts > 1 and not objective.per_example:
            raise InputError(
                f"train.accumulate: {parts}, but objectives.{name} compares all images of a batch; "
                "set it to 1, and save memory by model.remat=block or mesh.fsdp"
            )
    return parts


def mesh(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the device mesh.

    Args:
      config: the run's config.
      devices: all devices by default.

    Raises:
      InputError: the mesh does not match the number of devices, or the devices, or they and the
        parts, do not divide the batch.
    """
    sizes = config.mesh.data, config.mesh.fsdp, config.mesh.tensor
    axes = parallel.make_mesh(sizes, devices)
    split = axes.shape["data"] * axes.shape["fsdp"]
    if config.train.batch_size % split:
        raise InputError(
            f"train.batch_size: {config.train.batch_size} is not a multiple of {split}, the number "
            "of devices that share it"
        )
    parts = max(1, config.train.accumulate)
    if config.train.batch_size % (split * parts):
        raise InputError(
            f"train.accumulate: {parts} parts of train.batch_size={config.train.batch_size} on "
            f"{split} devices that share it: the batch is not a multiple of {parts * split}; "
            "change one of the two"
        )
    return axes
