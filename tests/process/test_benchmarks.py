"""Benchmarks whose figures the README quotes run, and their ratios hold."""

import json
import os
import subprocess
import sys

import pytest
from helpers.run import ROOT


@pytest.mark.slow
def test_a_search_costs_less_than_separate_runs(tmp_path):
    """The ratio is of processor time, as the machine may be shared; compilation is included."""
    out = tmp_path / "rows.jsonl"
    command = [
        sys.executable,
        "benchmarks/find_bottleneck.py",
        "--config=configs/uvit_digits.py:tiny",
        f"--out={out}",
    ]
    command += ["--config.model.depth=4", "--candidates=in_1,mid,out_1", "--steps=50"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": ""}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    assert json.loads(out.read_text())["ratio"]["processor"] < 0.9
