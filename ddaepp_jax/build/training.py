"""The rest of a config becomes what trains: objectives, optimizer, averages, device mesh."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddaepp_jax.base import parallel
from ddaepp_jax.base.choice import choose
from ddaepp_jax.build.diffusion import process
from ddaepp_jax.build.networks import network
from ddaepp_jax.data import order
from ddaepp_jax.diffusion.process import Process, level_of
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.models import heads
from ddaepp_jax.models.dit import DiT
from ddaepp_jax.objectives.denoising import Denoising
from ddaepp_jax.objectives.distillation import TEACHER_SCHEDULES, Distillation
from ddaepp_jax.training import clock, optimizer, sharding
from ddaepp_jax.training.step import Learner


def objectives(
    config: ConfigDict, process: Process, null_class: int | None, total: int
) -> dict[str, tuple[Any, optax.Schedule]]:
    """Objectives by name with their weights by the step; those of weight 0 don't exist for the
    step.
    """
    denoising = Denoising(process, null_class, config.objectives.denoising.label_dropout)
    make = {"denoising": lambda: denoising, "distillation": lambda: _distillation(config, denoising, total)}
    return {
        name: (make[name](), _weight(fields.weight, fields.schedule))
        for name, fields in config.objectives.items()
        if fields.weight
    }


def _weight(weight: float, points: Sequence[tuple[float, float]]) -> optax.Schedule:
    if not points:
        return optax.constant_schedule(weight)
    steps, factors = zip(*points, strict=True)
    return lambda step: weight * jnp.interp(step, jnp.array(steps, jnp.float32), jnp.array(factors, jnp.float32))


def _distillation(config: ConfigDict, denoising: Denoising, total: int) -> Distillation:
    fields, group = config.objectives.distillation, "objectives.distillation"
    choose(f"{group}.norm", fields.norm, heads.NORMS)
    schedule = choose(f"{group}.teacher_schedule", fields.teacher_schedule, TEACHER_SCHEDULES)
    return Distillation(
        denoising=denoising,
        shared=fields.share_denoising,
        student_level=level_of(denoising.process, fields.student_level, f"{group}.student_level"),
        teacher_level=level_of(denoising.process, fields.teacher_level, f"{group}.teacher_level"),
        symmetric=fields.symmetric,
        projector=heads.Head(fields.projector_depth, fields.hidden, fields.embedding, fields.norm),
        predictor=heads.Head(fields.predictor_depth, fields.hidden, None, fields.norm),
        temperature=fields.temperature,
        teacher_decay=schedule(fields.teacher_decay, total),
    )


def total_steps(config: ConfigDict, num_examples: int) -> int:
    """How long the run is, in steps."""
    train = config.train
    total = clock.total_steps(
        steps=train.steps,
        epochs=train.epochs,
        images=train.images,
        batch_size=train.batch_size,
        num_examples=num_examples,
    )
    if total >= order.max_steps(train.batch_size):
        raise InputError(f"train.steps: {total} steps of {train.batch_size} images are more than 2**32 images")
    return total


def learner(config: ConfigDict, image_shape: tuple[int, int, int], num_classes: int, total: int) -> Learner:
    """All parts of the train step."""
    made = network(config, image_shape, num_classes)
    noise = process(config)
    null_class = num_classes if config.model.class_conditional else None
    fields = {k: v for k, v in config.optimizer.items() if k not in ("learning_rate", "schedule", "warmup_steps")}
    if isinstance(made, DiT) and fields["weight_decay"] and fields["decay_mask"] == "all":
        raise InputError("optimizer.decay_mask: 'all' decays DiT's fixed positions too; set it to 'matrices'")
    rate = optimizer.learning_rate(
        config.optimizer.learning_rate, config.optimizer.schedule, config.optimizer.warmup_steps, total
    )
    return Learner(
        network=made,
        process=noise,
        objectives=objectives(config, noise, null_class, total),
        optimizer=optimizer.make_optimizer(learning_rate=rate, **fields),
        ema_decays=tuple(config.ema.decays),
        ema_ramp=config.ema.ramp,
        ema_sigma_rels=tuple(config.ema.sigma_rel),
        seed=config.seed,
    )


def mesh(config: ConfigDict) -> Mesh:
    """The device mesh, checked against the batch."""
    made = parallel.make_mesh((config.mesh.data, config.mesh.fsdp, config.mesh.tensor))
    split = made.shape["data"] * made.shape["fsdp"]
    if config.train.batch_size % split:
        raise InputError(
            f"train.batch_size: {config.train.batch_size} is not a multiple of {split}, the devices that share it"
        )
    return made
