"""The schema, JSON there and back, and changes of a resumed run. Bad values: test_fields.py."""

from typing import get_args, get_type_hints

import pytest
from helpers.errors import expect_error
from ml_collections import ConfigDict

from ddaepp_jax import config as schema
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.config import saved as run_config
from ddaepp_jax.config.overrides import parse_config
from ddaepp_jax.config.schema import Distillation, Optimizer, Probe
from ddaepp_jax.models import heads
from ddaepp_jax.objectives.distillation import TEACHER_SCHEDULES
from ddaepp_jax.probing.protocols import PROTOCOLS
from ddaepp_jax.training import optimizer

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize("variant", ["", "tiny"])
def test_defaults_are_valid_and_survive_json(variant):
    config = schema.get_config(variant)
    schema.validate(config)
    again = run_config.from_json(run_config.to_json(config), "config.json")
    assert again.to_dict() == config.to_dict()
    assert isinstance(again.ema.decays, tuple) and isinstance(again.mesh.rules[0][1], tuple)
    assert run_config.changes(config, again) == []


def test_changes_that_a_resumed_run_may_make():
    old, new = schema.get_config(), schema.get_config()
    new.train.log_every, new.evals.samples.n, new.mesh.fsdp, new.data.data_dir = (
        1,
        3,
        2,
        "elsewhere",
    )
    assert run_config.changes(old, new) == []


def test_fields_of_an_objective_that_is_off_may_change():
    old, new = schema.get_config(), schema.get_config()
    new.objectives.distillation.update(hidden=7, symmetric=True)
    assert run_config.changes(old, new) == []
    for config in (old, new):
        config.objectives.distillation.weight = 0.1
    assert [line.split(":")[0] for line in run_config.changes(old, new)] == [
        "objectives.distillation.hidden",
        "objectives.distillation.symmetric",
    ]


def test_changes_that_it_may_not_make_are_named():
    old, new = schema.get_config(), schema.get_config()
    new.seed, new.model.width = 5, 32
    new.model.extra = 1
    assert run_config.changes(old, new) == [
        "model.extra: absent -> 1",
        "model.width: 64 -> 32",
        "seed: 0 -> 5",
    ]


@pytest.mark.parametrize(
    ("schedule", "changed"),
    [
        ("constant", []),
        ("cosine", ["train.steps: 7500 -> 5000, on which a cosine schedule depends"]),
    ],
)
def test_the_length_of_a_run_may_change_where_no_learning_rate_depends_on_it(schedule, changed):
    old, new = schema.get_config(), schema.get_config()
    old.optimizer.schedule = new.optimizer.schedule = schedule
    new.train.steps = 5000
    assert run_config.changes(old, new) == changed


def test_all_wrong_fields_are_reported_at_once():
    """Each has its own line, as if it were the only one; a rule is silent where a field that it
    reads is wrong by itself.
    """
    config = schema.get_config()
    config.seed = -1
    config.train.update(batch_size=0, epochs=3.0)
    config.model.update(width=63, pool="max")
    config.evals.knn.k = 0
    config.ema.snapshot_every = 10
    with pytest.raises(InputError) as caught:
        schema.validate(config)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("6 fields of the config are wrong")
    assert sorted(line.partition(":")[0] for line in lines) == [
        "ema.snapshot_every",
        "evals.knn.k",
        "model.pool",
        "model.width",
        "seed",
        "train.batch_size",
    ]


@pytest.mark.parametrize(
    ("fields", "name", "words"),
    [
        ({"model.name": "uvti"}, "model.name", ["'uvti'", "'uvit'"]),
        ({"model.depth": "four"}, "model.depth", ["'four'", "integer"]),
        ({"data.flip": 1}, "data.flip", ["1", "boolean"]),
        ({"ema.decays": [0.9]}, "ema.decays", ["[0.9]", "tuple"]),
        ({"sampling.ddim.table": 3}, "sampling.ddim.table", ["3", "string"]),
    ],
)
def test_a_value_of_another_type_is_not_converted(fields, name, words):
    config = schema.get_config().to_dict()
    for field, value in fields.items():
        *groups, leaf = field.split(".")
        holder = config
        for group in groups:
            holder = holder[group]
        holder[leaf] = value
    with expect_error(name, *words):
        schema.validate(ConfigDict(config))


@pytest.mark.parametrize("config", [None, {}, "uvit.py", schema.get_config().to_dict()])
def test_what_is_no_config(config):
    with expect_error("config", "not a config", "get_config"):
        schema.validate(config)


@pytest.mark.parametrize("variant", ["Tiny", 3, b"tiny", ["tiny"]])
def test_what_is_no_variant(variant):
    with expect_error("--config", "no variant", "tiny"):
        schema.get_config(variant)


@pytest.mark.parametrize(
    ("group", "field", "names"),
    [
        (Optimizer, "name", optimizer.NAMES),
        (Optimizer, "schedule", optimizer.SCHEDULES),
        (Optimizer, "decay_mask", optimizer.DECAY_MASKS),
        (Distillation, "norm", heads.NORMS),
        (Distillation, "teacher_schedule", TEACHER_SCHEDULES),
        (Probe, "protocol", PROTOCOLS),
    ],
)
def test_choices_are_those_that_exist(group, field, names):
    assert set(get_args(get_type_hints(group)[field])) == set(names)


def test_a_directory_belongs_to_one_config(tmp_path):
    file, config = tmp_path / "run" / "config.json", schema.get_config()
    run_config.claim(file, config, "a run")
    config.train.log_every = 7
    run_config.claim(file, config, "a run")
    assert run_config.from_json(file.read_text(), str(file)).train.log_every == 7
    config.seed = 5
    with expect_error(f"{file}", "a run", "seed: 0 -> 5", "--workdir"):
        run_config.claim(file, config, "a run")
    with expect_error("--workdir", f"{tmp_path}", "not empty", "a run"):
        run_config.claim(tmp_path / "config.json", config, "a run")


def test_a_run_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "run" / "version.txt").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text(run_config.to_json(schema.get_config()))
    with expect_error("--workdir", "cannot write", "another"):
        run_config.write_run(tmp_path / "run", schema.get_config())


def test_wrong_names_and_wrong_values_are_reported_at_once():
    arguments = ["model.dpeth=3", "train.stepz=4", "train.batch_size=-1", "sampling.sampler=dimm"]
    with pytest.raises(InputError) as caught:
        parse_config([f"--config.{argument}" for argument in arguments])
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("4 ")
    fields = [line.split(":")[0] for line in lines]
    assert sorted(fields) == [
        "--config.model.dpeth",
        "--config.train.stepz",
        "sampling.sampler",
        "train.batch_size",
    ]


def test_another_name_without_its_fields_is_one_mistake():
    config = parse_config(["--config.model.name=unet", "--config.train.batch_size=-1"])
    with pytest.raises(InputError) as caught:
        schema.validate(config)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("2 ") and any(
        line.startswith("model.name: 'unet'") for line in lines
    )
