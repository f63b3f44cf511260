"""Damaged files of a run are named, by training and by the programs that open a run."""

import contextlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers.errors import expect_error
from helpers.run import PLAIN, config

from ddaepp_jax import sample
from ddaepp_jax.run import train
from ddaepp_jax.run.train import train_and_evaluate
from ddaepp_jax.training.checkpoint import Checkpoints


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
    with expect_error(f"{damaged / 'checkpoints' / part}", "--step"):
        sample.main([f"--workdir={damaged}"])


@pytest.mark.parametrize("damage", [pytest.param(_foreign_tree, marks=pytest.mark.slow), _garbage])
def test_resume_from_a_foreign_checkpoint(damage, damaged):
    damage(damaged / "checkpoints")
    with expect_error(f"{damaged / 'checkpoints' / '7'}", "--workdir"):
        train_and_evaluate(config(**PLAIN), damaged)


def test_metrics_that_cannot_be_written_are_named_before_compiling(damaged, monkeypatch):
    monkeypatch.setattr(train, "compile_fitting", None)
    (damaged / "metrics.jsonl").unlink()
    (damaged / "metrics.jsonl").mkdir()
    with expect_error(f"{damaged / 'metrics.jsonl'}: is not a file", "remove"):
        train_and_evaluate(config(**PLAIN), damaged)


def test_a_failed_last_save_is_known_to_the_writer(tmp_path):
    """The loop waits for the last save, so a run that loses it is failed at the writer too."""
    plan = train.make_plan(config(**PLAIN))
    checkpoints = Checkpoints(tmp_path / "checkpoints", 1, {})
    closed = []
    with pytest.raises(OSError, match="the last save"), contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(checkpoints))
        writer = train._outputs(plan, tmp_path, checkpoints, {}, 0, stack).writer
        writer._wandb = SimpleNamespace(finish=closed.append)
        checkpoints.wait = _fail
        checkpoints.wait()  # as the train loop does at its end
    assert closed == [True]


def _fail() -> None:
    raise OSError("the last save failed")
