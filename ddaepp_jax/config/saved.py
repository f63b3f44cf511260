"""The config that a run directory keeps: its JSON, what an older one lacks, and what a resumed run
may change.
"""

import json
from typing import Any

from ml_collections import ConfigDict

from ddaepp_jax import config as schema
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.config import validation


def to_json(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2) + "\n"


def from_json(text: str, file: str) -> ConfigDict:
    """The config of a run directory's ``config.json``; JSON's lists become tuples again."""

    def tuples(value: Any) -> Any:
        if isinstance(value, list):
            return tuple(tuples(v) for v in value)
        return {k: tuples(v) for k, v in value.items()} if isinstance(value, dict) else value

    try:
        config = _completed(ConfigDict(tuples(json.loads(text))))
        validation.validate(config)
    except (
        ValueError,
        AttributeError,
        KeyError,
        TypeError,
    ) as error:  # JSON's, ConfigDict's, validate's
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{file}: not the config of a run of this program ({reason}); give a run directory"
        ) from None
    return config


def _completed(config: ConfigDict) -> ConfigDict:
    """A config of an older version with the fields that came later, where they move no number of
    the training.
    """
    known = schema.get_config()
    if config.model.name in schema.MODELS:
        known.model = schema.MODELS[config.model.name]()
    for group in (
        "model",
        "data",
        "objectives",
        "evals",
        "probe",
        "sampling",
        "logging",
        "profile",
    ):
        whole = known[group].copy_and_resolve_references()
        whole.update(config.get(group, {}))
        config[group] = whole
    for name in ("sigma_rel", "snapshot_every"):  # of a group whose other fields move numbers
        config.ema[name] = config.ema.get(name, known.ema[name])
    return config


# Fields that a resumed run may change: they move no number of the training (the mesh's rounding
# apart).
MAY_CHANGE = (
    "train.steps",
    "train.epochs",
    "train.images",
    "train.steps_per_dispatch",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "data.data_dir",
    "data.device_bytes",
    "data.stream_threads",
    "model.remat",
    "model.attention",
    "model.scan",
    # a snapshot says what it is of: any set of them can be combined, and how well is known
    "ema.snapshot_every",
    "mesh.",
    "evals.",
    "probe.",
    "sampling.",
    "logging.",
    "profile.",
)


def changes(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Fields that differ and that a resumed run may not change, as "field: old -> new"."""
    before, after = _flat(old), _flat(new)
    allowed = MAY_CHANGE
    distillation = new.objectives.distillation
    teacher = distillation.weight and distillation.teacher_schedule
    if "cosine" in (
        new.optimizer.schedule,
        teacher,
    ):  # the learning rate or the teacher's decay depends on the length
        allowed = tuple(
            name
            for name in MAY_CHANGE
            if name not in ("train.steps", "train.epochs", "train.images")
        )
    both_off = [
        name
        for name in new.objectives
        if not (old.objectives[name].weight or new.objectives[name].weight)
    ]
    allowed += tuple(f"objectives.{name}." for name in both_off)
    return [
        f"{name}: {before.get(name, 'absent')} -> {after.get(name, 'absent')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name, "absent") != after.get(name, "absent") and not name.startswith(allowed)
    ]


def _flat(config: ConfigDict) -> dict[str, Any]:
    """Leaves by dotted name."""
    leaves = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            leaves |= {f"{name}.{inner}": leaf for inner, leaf in _flat(value).items()}
        else:
            leaves[name] = value
    return leaves
