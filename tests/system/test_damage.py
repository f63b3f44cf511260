"""Damaged checkpoints; and mistakes as a user meets them, in a process of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers.errors import TINY, check_refused

from ddaepp_jax import main, sample


def _foreign_tree(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(checkpoints / "7", {"weights": np.zeros(3)})


def _garbage(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints)
    (checkpoints / "7").mkdir(parents=True)
    (checkpoints / "7" / "garbage").write_text("garbage")


def _no_ema(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints / "4" / "ema")


@pytest.mark.parametrize("damage", [_foreign_tree, _garbage, _no_ema])
def test_sample_from_a_damaged_checkpoint(damage, damaged):
    damage(damaged / "checkpoints")
    check_refused(sample.main, [f"--workdir={damaged}"], str(damaged / "checkpoints"), "not a readable checkpoint")


@pytest.mark.slow
@pytest.mark.parametrize("damage", [_foreign_tree, _garbage])
def test_resume_from_a_foreign_checkpoint(damage, damaged):
    damage(damaged / "checkpoints")
    check_refused(
        main.main, [TINY, f"--workdir={damaged}"], str(damaged / "checkpoints/7"), "train into another --workdir"
    )


def program(module, *arguments, **environment):
    """A program in a process of its own: its exit code and its lines on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", f"ddaepp_jax.{module}", *map(str, arguments)],
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments", "line"),
    [
        ("main", ["--config.modle.depth=8"], "error: --config.modle.depth: no such field; did you mean model.depth?"),
        ("main", ["--config.train.batch_size=12"], "error: train.batch_size: 12 is not a multiple of 8, the devices"),
        ("main", ["--config.data.name=digitz"], "error: data.name: TensorFlow Datasets has no 'digitz'"),
        ("sample", ["--workdir=nowhere"], "error: nowhere: not a run directory (no config.json)"),
        ("linear_probe", ["--workdir=nowhere"], "error: nowhere: not a run directory (no config.json)"),
        ("sample", ["--n=many"], "error: argument --n: invalid int value: 'many'"),
    ],
)
def test_one_line_and_exit_code_2(module, arguments, line):
    code, lines = program(module, *arguments, JAX_NUM_CPU_DEVICES="8")
    assert code == 2 and len(lines) == 1 and lines[0].startswith(line), lines


@pytest.mark.slow
def test_damaged_run_in_a_process_of_its_own(damaged):
    _foreign_tree(damaged / "checkpoints")
    code, lines = program("sample", f"--workdir={damaged}")
    assert code == 2 and len(lines) == 1 and lines[0].startswith(f"error: {damaged}"), lines


@pytest.mark.slow
def test_no_network(tmp_path):
    """TFDS reports its retries before; the last line is ours."""
    offline = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    fields = ("--config.data.name=cifar10", f"--config.data.data_dir={tmp_path / 'data'}")
    code, lines = program("main", f"--workdir={tmp_path / 'run'}", *fields, **offline)
    assert code == 2 and lines[-1].startswith(f"error: data.data_dir: {tmp_path / 'data'}"), lines
