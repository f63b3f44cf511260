"""Damaged checkpoints are named, by training and by the programs that open a run."""

import shutil
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers.errors import expect_error
from helpers.run import PLAIN, config

from ddaepp_jax import sample
from ddaepp_jax.run.train import train_and_evaluate


def _foreign_tree(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(checkpoints / "7", {"weights": np.zeros(3)})


def _garbage(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints)
    (checkpoints / "7").mkdir(parents=True)
    (checkpoints / "7" / "garbage").write_text("garbage")


def _no_ema(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints / "6" / "ema")


@pytest.mark.parametrize(
    ("damage", "part"), [(_foreign_tree, "7/meta"), (_garbage, "7/meta"), (_no_ema, "6/ema")]
)
def test_sample_from_a_damaged_checkpoint(damage, part, damaged):
    damage(damaged / "checkpoints")
    with expect_error(f"{damaged / 'checkpoints' / part}", "readable"):
        sample.main([f"--workdir={damaged}"])


@pytest.mark.parametrize("damage", [pytest.param(_foreign_tree, marks=pytest.mark.slow), _garbage])
def test_resume_from_a_foreign_checkpoint(damage, damaged):
    damage(damaged / "checkpoints")
    with expect_error(f"{damaged / 'checkpoints' / '7'}", "--workdir"):
        train_and_evaluate(config(**PLAIN), damaged)
