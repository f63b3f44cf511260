"""The config in a run directory: its JSON, and the fields that a later run may change."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ddaepp_jax import __version__, evaluators
from ddaepp_jax.base import lock
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.files import replace, write_json
from ddaepp_jax.base.results import refuse_other
from ddaepp_jax.config.default import MODELS, get_config
from ddaepp_jax.config.validation import mistakes, refuse
from ddaepp_jax.training.saving import check_path

# Fields of a run's config that are checked where they are used: a sampler from outside the package
# need not be registered to open its run, and older versions took values that are refused today.
LENIENT = ("sampling.", "profile.", "ema.decays:", "data.device_bytes:")


def to_json(config: ConfigDict) -> str:
    """Returns the text of a run directory's ``config.json``."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def from_json(text: str, file: str, mend: str = "give a run directory") -> ConfigDict:
    """Returns the config of a run directory's ``config.json``, completed and validated.

    Args:
      text: the file's content.
      file: its path, for errors.
      mend: what the user can do if the text is not a valid config.

    Raises:
      InputError: the text is not a valid config.
    """
    try:
        config = _completed(ConfigDict(_tuples(json.loads(text))))
        refuse([line for line in mistakes(config) if not line.startswith(LENIENT)])
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        # Raised by JSON, by validate, and by ConfigDict if a group is no group.
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{file}: not the config of a run of this program ({reason}); {mend}"
        ) from None
    return config


def _tuples(value: Any) -> Any:
    """Converts JSON's lists back to tuples."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return value


# Groups, and fields of two groups, that an older config may lack. Their defaults do not change its
# training.
LATER_GROUPS = ("model", "data", "objectives", "evals", "probe", "sampling", "logging", "profile")
LATER_EMA = ("sigma_rel", "snapshot_every")
LATER_TRAIN = ("checksums", "accumulate")


def _completed(config: ConfigDict) -> ConfigDict:
    """Adds the fields that the version which wrote a config did not have, with their defaults."""
    whole = get_config()
    probe_has_epochs = "epochs" in config.get("evals", {}).get("probe", {})
    if config.model.name in MODELS:
        whole.model = MODELS[config.model.name]()
    if isinstance(config.model.get("remat"), bool):  # It was a switch in version 0.1.0.
        with config.model.ignore_type():
            config.model.remat = "block" if config.model.remat else "none"
    for name in LATER_GROUPS:
        group = whole[name].copy_and_resolve_references()
        group.update(config.get(name, {}))
        config[name] = group
    for name in ("evals", "sampling"):
        # Settings of plug-ins from outside the package that are not registered here.
        for plugin in set(config[name]) - set(whole[name]):
            del config[name][plugin]
    # Version 0.1.0 had one number of epochs for the program and for the probe in training.
    if not probe_has_epochs:
        config.evals.probe.epochs = config.probe.epochs
    for group, names in (("ema", LATER_EMA), ("train", LATER_TRAIN)):
        for name in names:
            config[group][name] = config[group].get(name, whole[group][name])
    return config


# Fields that a resumed run may change: they do not change the training, apart from rounding. The
# mesh, the network's computation and ``data.device_bytes`` move last bits: a data set on the device
# is trained on by another program than a stream.
LENGTHS = ("train.steps", "train.epochs", "train.images")
MAY_CHANGE = (
    *LENGTHS,
    "train.accumulate",
    "train.steps_per_dispatch",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.checksums",
    "data.data_dir",
    "data.device_bytes",
    "data.stream_threads",
    "model.remat",
    "model.attention",
    "model.scan",
    # A snapshot names its average and step, so any set of snapshots can be combined; the error is
    # computed.
    "ema.snapshot_every",
    "mesh.",
    "evals.",
    "probe.",
    "sampling.",
    "logging.",
    "profile.",
)


def changes(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Returns the fields that differ and that a resumed run may not change, as "field: old -> new".

    A length may change if neither the learning rate nor the teacher's decay depends on it. The
    fields of an objective may change while it is off.
    """
    allowed = set(MAY_CHANGE)
    if length_is_fixed(new):
        allowed -= set(LENGTHS)
    for name in new.objectives:
        if not (old.objectives[name].weight or new.objectives[name].weight):
            allowed.add(f"objectives.{name}.")
    lines = []
    for name, before, after in _differences(old, new):
        if not name.startswith(tuple(allowed)):
            reason = ", on which a cosine schedule depends" if name in LENGTHS else ""
            lines.append(f"{name}: {before} -> {after}{reason}")
    return lines


def length_is_fixed(config: ConfigDict) -> bool:
    """Whether the learning rate or the teacher's decay depends on the length of the run."""
    distillation = config.objectives.distillation
    teacher = distillation.weight and distillation.teacher_schedule
    return "cosine" in (config.optimizer.schedule, teacher)


def _differences(old: ConfigDict, new: ConfigDict) -> list[tuple[str, Any, Any]]:
    """Returns the (dotted name, old value, new value) of all fields that differ."""
    before = _flat(old)
    after = _flat(new)
    pairs = {
        name: (before.get(name, "absent"), after.get(name, "absent")) for name in before | after
    }
    return [(name, *pairs[name]) for name in sorted(pairs) if pairs[name][0] != pairs[name][1]]


def _flat(config: ConfigDict) -> dict[str, Any]:
    """Returns the values by dotted name."""
    leaves = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            leaves |= {f"{name}.{inner}": leaf for inner, leaf in _flat(value).items()}
        else:
            leaves[name] = value
    return leaves


# Fields of ``model`` that change how the network is computed, but not what it computes.
COMPUTATION = ("remat", "attention", "scan")


def network_fields(config: ConfigDict) -> dict[str, Any]:
    """Returns the fields that decide what the weights of a run mean, as JSON values by name."""
    model = {name: value for name, value in _flat(config.model).items() if name not in COMPUTATION}
    fields = {f"model.{name}": value for name, value in model.items()}
    fields |= {f"diffusion.{name}": value for name, value in _flat(config.diffusion).items()}
    return json.loads(json.dumps(fields))


def check_network(file: Path, config: ConfigDict, fields: Mapping[str, Any]) -> None:
    """Refuses a config that describes another network than the weights were trained with.

    Args:
      file: the config's file.
      config: its content.
      fields: the ``network_fields`` that were saved with the weights.

    Raises:
      InputError: a field differs.
    """
    here = network_fields(config)
    differences = [
        f"{name}: {value} -> {here[name]}"
        for name, value in fields.items()
        if name in here and here[name] != value
    ]
    if differences:
        mend = "the file was changed after training; take the change back"
        refuse_other(file, "the config of a run", differences, mend)


MEND = "use another --workdir"


def check(
    file: Path,
    config: ConfigDict,
    noun: str,
    compare: Callable[[ConfigDict, ConfigDict], list[str]] = changes,
) -> None:
    """Makes a config's directory, or checks that it is the config's; writes no file.

    Args:
      file: the config's JSON file in the directory.
      noun: names what the directory holds in errors, e.g. "a run".
      compare: returns the differences that are not allowed between the config there and this one.

    Raises:
      InputError: the directory belongs to another config, holds something else, has a path that
        checkpoints cannot have, or cannot be written.
    """
    workdir = file.parent
    check_path(workdir)
    with _writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        if file.exists():
            before = from_json(file.read_text(errors="replace"), str(file), MEND)
            if differences := compare(before, config):
                refuse_other(file, noun, differences, MEND)
        elif any(entry.name != lock.NAME for entry in workdir.iterdir()):
            raise InputError(f"--workdir: {workdir} is not empty and does not hold {noun}; {MEND}")


def claim(
    file: Path,
    config: ConfigDict,
    noun: str,
    compare: Callable[[ConfigDict, ConfigDict], list[str]] = changes,
) -> None:
    """Checks a config's directory like ``check``, and writes the config there."""
    check(file, config, noun, compare)
    with _writing(file.parent):
        replace(file, to_json(config).encode())


def check_run(workdir: Path, config: ConfigDict) -> None:
    """Makes a run directory, or checks that it is this run's; writes no file.

    Raises:
      InputError: as ``check``.
    """
    check(workdir / "config.json", config, "a run")


def write_run(workdir: Path, config: ConfigDict) -> None:
    """Writes the files that describe a run into its directory.

    They are the config, the defaults of this version, the panels of all evaluators (for the report,
    which may not know those from outside the package), and the versions of the software.

    Raises:
      InputError: the directory cannot be written.
    """
    with _writing(workdir):
        replace(workdir / "config.json", to_json(config).encode())
        replace(workdir / "defaults.json", to_json(get_config()).encode())
        write_json(workdir / "panels.json", [dataclasses.asdict(p) for p in evaluators.panels()])
        versions = f"ddaepp_jax {__version__}, jax {jax.__version__}\n"
        replace(workdir / "version.txt", versions.encode())


@contextlib.contextmanager
def _writing(workdir: Path) -> Iterator[None]:
    """Turns an error of writing into one that names ``--workdir``."""
    try:
        yield
    except OSError as error:
        raise InputError(f"--workdir: cannot write {workdir} ({error.strerror}); {MEND}") from None
