"""The scripts in launch/ run the commands that they print."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def gpu_node(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHON": sys.executable, "JAX_PLATFORMS": "cpu", **variables}
    return subprocess.run(
        ["bash", str(ROOT / "launch" / "gpu_node.sh"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_dry_run_of_gpu_node_prints_its_commands(tmp_path):
    results = tmp_path / "results"
    done = gpu_node("--dry_run", RESULTS=str(results), CASES="dit_xl uvit_s2_128")
    assert done.returncode == 0, done.stderr
    check, benchmark, train = done.stdout.splitlines()
    assert "benchmarks/backend.py" in check
    assert "--case=dit_xl --case=uvit_s2_128" in benchmark
    assert f"--config=configs/uvit_cifar.py --workdir={results}/run" in train
    assert not results.exists()


@pytest.mark.parametrize(
    ("arguments", "variables", "named"),
    [(("--dry",), {}, "usage"), (("--dry_run",), {"STEPS": "check fly"}, "fly")],
)
def test_gpu_node_refuses_what_it_does_not_know(arguments, variables, named):
    done = gpu_node(*arguments, **variables)
    assert done.returncode == 2 and named in done.stderr


@pytest.mark.slow
def test_gpu_node_checks_and_trains(tmp_path):
    """The benchmark, which needs PyTorch and a GPU, is left out."""
    variables = dict(RESULTS=str(tmp_path), CONFIG="configs/uvit_digits.py:tiny")
    done = gpu_node(**variables, STEPS="check train", TRAIN_ARGS="--config.train.steps=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "backend.jsonl").read_text().count('"agrees": true') == 3
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
