"""A mistake as a user meets it: a program in a process of its own ends in one line and with exit
code 2.
"""

import shutil
import subprocess

import pytest
from helpers.run import command, environment

pytestmark = pytest.mark.slow


def program(module: str, *arguments: object, **variables: str) -> tuple[int, list[str]]:
    """The exit code of a program in a process of its own with eight devices, and its lines on
    stderr.
    """
    done = subprocess.run(
        command(module, None, *arguments),
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
