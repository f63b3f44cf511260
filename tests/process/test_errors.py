"""A mistake as a user meets it: a program in a process of its own ends in one line and with exit
code 2.
"""

import os
import shutil
import subprocess
import sys

import pytest
from helpers.run import NO_EVALS, command, environment

pytestmark = pytest.mark.slow


def program(
    module: str, *arguments: object, fields: dict | None = None, blocks: int = 0, **variables: str
) -> tuple[int, list[str]]:
    """The exit code of a program in a process of its own with eight devices, and its lines on
    stderr.

    ``fields`` override the tiny config; ``blocks`` of 512 bytes fit into a file, as on a full disk.
    """
    limit = ["sh", "-c", f'ulimit -f {blocks}; exec "$@"', "sh"] if blocks else []
    done = subprocess.run(
        [*limit, *command(module, fields, *arguments)],
        env=environment(8) | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize(
    ("module", "argument", "field", "word"),
    [
        ("main", "--config.modle.depth=8", "--config.modle.depth", "model.depth"),
        ("main", "--config.train.batch_size=12", "train.batch_size", "multiple"),
        ("main", "--config.data.name=digitz", "data.name", "TensorFlow Datasets"),
        ("sample", "--workdir=nowhere", "nowhere", "config.json"),
        ("linear_probe", "--workdir=nowhere", "nowhere", "config.json"),
        ("sample", "--n=many", "argument --n", "'many'"),
    ],
)
def test_one_line_and_exit_code_2(module, argument, field, word):
    code, lines = program(module, argument)
    assert (
        code == 2
        and len(lines) == 1
        and lines[0].startswith(f"error: {field}")
        and word in lines[0]
    ), lines


def test_a_damaged_run_ends_in_one_line(damaged):
    shutil.rmtree(damaged / "checkpoints" / "6" / "ema")
    code, lines = program("sample", f"--workdir={damaged}")
    assert code == 2 and len(lines) == 1 and lines[0].startswith(f"error: {damaged}"), lines


@pytest.mark.parametrize("blocks", [2, 80])
def test_a_full_disk_ends_in_one_line_and_leaves_what_was_saved(tmp_path, blocks):
    """The file that does not fit is the config, or an array of a checkpoint."""
    workdir = f"--workdir={tmp_path / 'run'}"
    fields = NO_EVALS | dict(optimizer__schedule="constant", train__checkpoint_every=1)
    assert program("main", workdir, fields=fields | dict(train__steps=1))[0] == 0
    code, lines = program(
        "main",
        workdir,
        fields=fields | dict(train__steps=9),
        blocks=blocks,
        JAX_ENABLE_COMPILATION_CACHE="false",  # It would warn of the full disk too.
    )
    assert code in (1, 2) and lines[-1].startswith("error: ") and "large" in lines[-1], lines
    assert not any("Traceback" in line or "ERROR" in line for line in lines), lines
    assert program("main", workdir, fields=fields | dict(train__steps=2))[0] == 0


def test_no_network(tmp_path):
    """TensorFlow Datasets reports its retries before, but the last line is ours."""
    offline = dict.fromkeys(
        ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"
    )
    fields = ("--config.data.name=cifar10", f"--config.data.data_dir={tmp_path / 'data'}")
    code, lines = program("main", f"--workdir={tmp_path / 'run'}", *fields, **offline)
    assert (
        code == 2
        and lines[-1].startswith("error: data.data_dir")
        and str(tmp_path / "data") in lines[-1]
    ), lines


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JAX_PLATFORMS", "nonsense"),
        ("JAX_PLATFORMS", "cuda"),
        ("JAX_ENABLE_X64", "banana"),
        ("JAX_DISABLE_JIT", "true"),
    ],
)
def test_an_environment_with_which_jax_does_not_start(name, value):
    code = "from ddaepp_jax.cli.start import *; launch(lambda argv: start_backend())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"JAX_PLATFORMS": "cpu", name: value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.startswith("error: JAX_"), done.stderr
    assert name in done.stderr and "unset" in done.stderr and done.stderr.count("\n") == 1
