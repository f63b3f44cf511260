"""What a config must satisfy before anything is built from it; what needs data or devices,
``build`` checks.
"""

import itertools
import re
from typing import Any

from ml_collections import ConfigDict

from ddaepp_jax import config as schema
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.data.geometric import AUGMENT_DIM
from ddaepp_jax.diffusion.guidance import Guidance
from ddaepp_jax.probing import diagnostics
from ddaepp_jax.scoring import image_sets
from ddaepp_jax.training.ema import WIDTHS


def validate(config: ConfigDict) -> None:
    """Check what can be checked without the data and the devices.

    Raises:
      InputError: names the first field that is wrong, and the mend.
    """
    _check_fields(config)
    _require(0 <= config.seed < 2**32, f"seed: {config.seed} is not in 0..2**32-1")
    model = config.model
    _require(
        model.dtype in ("float32", "bfloat16"),
        f"model.dtype: {model.dtype!r} is neither 'float32' nor 'bfloat16'",
    )
    _check_train(config.train)
    _check_averages(config.ema)
    _check_objectives(config)
    _check_distillation(config)
    _check_optimizer(config.optimizer)
    _check_data(config)
    _check_rules(config.mesh.rules)
    _check_evals(config)
    _check_sampling(config)


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise InputError(message)


def _numbers(values: Any, kind: type) -> bool:
    return isinstance(values, tuple) and all(type(value) is kind for value in values)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def check_names(group: str, given: ConfigDict, known: ConfigDict) -> None:
    """Refuse fields of a group that nothing reads, and a group that lacks some."""
    for name in sorted(set(given) ^ set(known)):
        wrong, whole = (
            "no such field" if name in given else "missing",
            group.rstrip(".") or "a config",
        )
        raise InputError(f"{group}{name}: {wrong}; the fields of {whole} are {', '.join(known)}")


def _check_fields(config: ConfigDict) -> None:
    known = schema.get_config()
    check_names("", config, known)
    chosen_by_name = (
        "model",
        "diffusion",
    )  # whose fields are checked where the name becomes an object
    for group in (g for g in known if isinstance(known[g], ConfigDict) and g not in chosen_by_name):
        check_names(f"{group}.", config[group], known[group])
    for group in ("evals", "objectives"):
        for name, fields in config[group].items():
            check_names(f"{group}.{name}.", fields, known[group][name])
    fields, known = config.objectives.distillation.photometric, schema.distillation().photometric
    check_names("objectives.distillation.photometric.", fields, known)


def _check_train(train: ConfigDict) -> None:
    given = [name for name in ("steps", "epochs", "images") if train[name] is not None]
    _require(
        len(given) == 1,
        f"train.steps, train.epochs, train.images: {' and '.join(given) or 'none'} given; give exactly one "
        "(--config.train.steps=None takes one back)",
    )
    _require(train[given[0]] > 0, f"train.{given[0]}: {train[given[0]]} is not positive")
    for name in (
        "batch_size",
        "steps_per_dispatch",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
    ):
        _require(train[name] > 0, f"train.{name}: {train[name]} is not positive")


def _check_averages(ema: ConfigDict) -> None:
    _require(
        bool(ema.decays) and _numbers(ema.decays, float) and all(0 < d < 1 for d in ema.decays),
        f"ema.decays: {ema.decays}: give at least one number between 0 and 1, e.g. (0.9999,)",
    )
    widths, every = ema.sigma_rel, ema.snapshot_every
    _require(
        _numbers(widths, float)
        and all(WIDTHS[0] <= w < WIDTHS[1] for w in widths)
        and len({*widths}) == len(widths),
        f"ema.sigma_rel: {widths}: give different numbers, from {WIDTHS[0]} to below {WIDTHS[1]:.4f}, e.g. (0.05, 0.1)",
    )
    _require(every >= 0, f"ema.snapshot_every: {every} is negative; 0 turns it off")
    _require(
        every == 0 or len(widths) > 1,
        f"ema.snapshot_every: {every}, but ema.sigma_rel={widths}: snapshots are combined from two or more averages; "
        "set ema.sigma_rel=(0.05, 0.1), or this to 0",
    )


def _check_objectives(config: ConfigDict) -> None:
    for name, objective in config.objectives.items():
        weight, points = objective.weight, objective.schedule
        _require(weight >= 0, f"objectives.{name}.weight: {weight} is negative; 0 turns it off")
        _require(
            isinstance(points, tuple)
            and all(isinstance(p, tuple) and len(p) == 2 for p in points)
            and all(
                isinstance(value, int | float) and value >= 0 for value in itertools.chain(*points)
            )
            and all(first[0] < second[0] for first, second in itertools.pairwise(points)),
            f"objectives.{name}.schedule: {points}: give ((step, factor), ..) with rising steps, "
            "e.g. ((0, 0.0), (5000, 1.0)), or () for 1 throughout",
        )
    _require(
        any(objective.weight > 0 for objective in config.objectives.values()),
        "objectives.<name>.weight: all are 0; there is nothing to train on",
    )
    dropout = config.objectives.denoising.label_dropout
    _require(0 <= dropout <= 1, f"objectives.denoising.label_dropout: {dropout} is not in 0..1")


def _check_distillation(config: ConfigDict) -> None:
    fields, group = config.objectives.distillation, "objectives.distillation"
    augment_dim = config.model.get("augment_dim")
    _require(
        config.train.batch_size > 1 or not fields.weight,
        f"{group}.weight: in batches of one image it has no other to be told from; set train.batch_size higher",
    )
    _require(
        0 <= fields.geometric <= 1, f"{group}.geometric: {fields.geometric} is not a probability"
    )
    _require(
        not (fields.weight and fields.geometric) or augment_dim in (0, AUGMENT_DIM),
        f"{group}.geometric: {AUGMENT_DIM} numbers say how a view is transformed, the network takes {augment_dim}; "
        f"set model.augment_dim to {AUGMENT_DIM}, or to 0, and it is not told",
    )
    _require(
        not fields.share_denoising or fields.student_level is None,
        f"{group}.student_level: {fields.student_level}, but with share_denoising the student's levels are the "
        "denoiser's; set it to None",
    )
    _require(
        0 <= fields.teacher_decay <= 1,
        f"{group}.teacher_decay: {fields.teacher_decay} is not in 0..1",
    )
    _require(fields.temperature > 0, f"{group}.temperature: {fields.temperature} is not positive")
    for name in ("projector_depth", "predictor_depth"):
        _require(fields[name] >= 0, f"{group}.{name}: {fields[name]} is negative; 0 is none")
    for name in ("hidden", "embedding"):
        _require(fields[name] > 0, f"{group}.{name}: {fields[name]} is not positive")
    try:
        schema.photometric(config)
    except ValueError as error:
        raise InputError(f"{group}.photometric.{error}") from None


def _check_optimizer(optimizer: ConfigDict) -> None:
    _require(
        optimizer.learning_rate > 0,
        f"optimizer.learning_rate: {optimizer.learning_rate} is not positive",
    )
    for name in ("weight_decay", "clip_norm", "warmup_steps"):
        _require(
            optimizer[name] >= 0, f"optimizer.{name}: {optimizer[name]} is negative; 0 turns it off"
        )
    for name in ("b1", "b2"):
        _require(0 <= optimizer[name] < 1, f"optimizer.{name}: {optimizer[name]} is not in [0, 1)")


def _check_data(config: ConfigDict) -> None:
    data = config.data
    _require(
        _numbers(data.size, int)
        and len(data.size) == 2
        and (min(data.size) > 0 or data.size == (0, 0)),
        f"data.size: {data.size} is not (height, width), two positive whole numbers, or (0, 0)",
    )
    _require(0 <= data.augment <= 1, f"data.augment: {data.augment} is not a probability")
    _require(
        data.augment == 0 or config.model.get("augment_dim") == AUGMENT_DIM,
        f"data.augment: the network has to know the transformation, or its samples are transformed too; set "
        f"model.augment_dim to {AUGMENT_DIM}",
    )
    _require(data.stream_threads > 0, f"data.stream_threads: {data.stream_threads} is not positive")


def _check_rules(rules: Any) -> None:
    for rule in rules:
        _require(
            isinstance(rule, tuple)
            and [type(part) for part in rule] == [str, tuple]
            and _compiles(rule[0]),
            f"mesh.rules: {rule!r} is not (regex, axes), e.g. ('.*', ('fsdp',))",
        )


def _check_evals(config: ConfigDict) -> None:
    evals, probe = config.evals, config.probe
    for name, evaluation in evals.items():
        _require(
            evaluation.every >= 0,
            f"evals.{name}.every: {evaluation.every} is negative; 0 turns it off",
        )
        for field in ("images", "levels", "n", "k"):
            value = evaluation.get(field, 1)
            _require(
                value > 0,
                f"evals.{name}.{field}: {value} is not positive; evals.{name}.every=0 turns it off",
            )
    for name, n, least in (
        ("fid.n", evals.fid.n, image_sets.FEWEST),
        ("features.images", evals.features.images, diagnostics.FEWEST),
    ):
        _require(n >= least, f"evals.{name}: {n} images are too few; give {least} or more")
    _require(0 <= probe.held_out < 1, f"probe.held_out: {probe.held_out} is not in [0, 1)")
    epochs = probe.epochs
    _require(
        epochs is None or epochs > 0,
        f"probe.epochs: {epochs} is not positive; None is the protocol's own",
    )
    _require(probe.knn >= 0, f"probe.knn: {probe.knn} is negative; 0 asks no neighbours")


def _check_sampling(config: ConfigDict) -> None:
    sampling = config.sampling
    _require(sampling.batch_size > 0, f"sampling.batch_size: {sampling.batch_size} is not positive")
    _require(
        sampling.guidance == 1 or config.model.class_conditional,
        f"sampling.guidance: {sampling.guidance} without labels; set it to 1, or model.class_conditional to True",
    )
    try:
        Guidance(sampling.guidance, sampling.guidance_interval, sampling.guidance_channels)
    except ValueError as error:
        raise InputError(f"sampling.guidance_{error}") from None
