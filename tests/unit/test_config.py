"""The schema: JSON there and back, and what a resumed run may change. Bad values:
test_fields.py.
"""

import pytest

from ddaepp_jax import config as schema
from ddaepp_jax.config import saved as run_config
from ddaepp_jax.config import validation

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize("variant", ["", "tiny"])
def test_defaults_are_valid_and_survive_json(variant):
    config = schema.get_config(variant)
    validation.validate(config)
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
    ("schedule", "changed"), [("constant", []), ("cosine", ["train.steps: 7500 -> 5000"])]
)
def test_the_length_of_a_run_may_change_where_no_learning_rate_depends_on_it(schedule, changed):
    old, new = schema.get_config(), schema.get_config()
    old.optimizer.schedule = new.optimizer.schedule = schedule
    new.train.steps = 5000
    assert run_config.changes(old, new) == changed
