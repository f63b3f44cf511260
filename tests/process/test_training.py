"""Training in processes of its own: killed and resumed, and shared by several processes."""

import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from helpers.processes import run_together
from helpers.run import CONDITIONAL, NO_EVALS, PLAIN, command, environment, rows, snapshots
from helpers.same import SGD, check_same

from ddaepp_jax import load
from ddaepp_jax.training.checkpoint import steps_of

pytestmark = pytest.mark.slow


def check_equal(one, other):
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), one, other
    )


def train(workdir, fields, devices=2):
    program = command("main", fields, f"--workdir={workdir}")
    subprocess.run(program, env=environment(devices), check=True)


def kill(workdir, fields, step):
    """Start a training and kill it as soon as the checkpoint of ``step`` is there."""
    process = subprocess.Popen(command("main", fields, f"--workdir={workdir}"), env=environment(2))
    deadline = time.monotonic() + 120
    while not (workdir / "checkpoints" / str(step)).is_dir():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    """6 steps = 3 steps, SIGKILL, the same command, 3 more: parameters, EMA and optimizer."""
    fields = PLAIN | NO_EVALS
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(whole, fields)
    kill(killed, fields, 3)
    shutil.rmtree(killed / "checkpoints" / "6", ignore_errors=True)  # in case the kill came late
    train(killed, fields)
    check_equal(load(killed).state(), load(whole).state())


# A job in the background ignores Ctrl-C, and so do its children.
NOT_IGNORED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_loses_no_step(tmp_path, number):
    """The state is saved at the step where the signal came, and its last rows too."""
    fields = NO_EVALS | dict(
        train__steps=1000,
        train__log_every=100,
        train__checkpoint_every=1000,
        train__steps_per_dispatch=20,
    )
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(whole, fields, devices=1)
    process = subprocess.Popen(
        [sys.executable, "-c", NOT_IGNORED, *command("main", fields, f"--workdir={stopped}")],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (stopped / "metrics.jsonl").exists() or not rows(stopped):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors
    (step,) = steps_of(stopped / "checkpoints")
    assert errors.splitlines()[-1].startswith(f"stopped at step {step}, ")
    train(stopped, fields, devices=1)
    check_equal(load(stopped).state(), load(whole).state())
    losses = [[(row["step"], row["loss"]) for row in rows(each)] for each in (stopped, whole)]
    assert losses[0] == losses[1]


def test_a_killed_run_ends_with_the_same_snapshots(tmp_path):
    fields = CONDITIONAL | dict(train__steps=30)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(whole, fields)
    kill(killed, fields, 12)
    train(killed, fields)
    assert steps_of(whole / "snapshots") == steps_of(killed / "snapshots") == [*range(3, 31, 3)]
    for step in steps_of(whole / "snapshots"):
        check_equal(snapshots(whole, step), snapshots(killed, step))


def two_processes(workdir, fields):
    """A run of two processes that share its parameters, to its end."""
    run_together(command("main", fields, f"--workdir={workdir}"), processes=2, devices=2)


def test_two_processes_train_as_one(tmp_path):
    """The global batch and the losses don't depend on the number of processes; one run directory is
    written.
    """
    fields = dict(train__steps=4, train__batch_size=16, data__device_bytes=0)
    subprocess.run(
        command("main", fields, f"--workdir={tmp_path / 'one'}"), env=environment(4), check=True
    )
    two_processes(tmp_path / "two", fields)
    one, two = (load(tmp_path / name).state() for name in ("one", "two"))
    losses = [
        [row["loss"] for row in rows(tmp_path / name) if "loss" in row] for name in ("one", "two")
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one.ema), jax.tree.leaves(two.ema), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-4)


def test_two_processes_resume_and_keep_snapshots(tmp_path):
    """The second start reads no program from the cache whose collectives would wait for ever."""
    fields = PLAIN | NO_EVALS | dict(ema__sigma_rel="(0.05,0.1)", ema__snapshot_every=2)
    fields |= dict(mesh__data=1, mesh__fsdp=-1)
    for steps in (3, 6):
        two_processes(tmp_path / "two", fields | dict(train__steps=steps))
    assert {entry.name for entry in (tmp_path / "two" / "snapshots").iterdir()} == {
        "2",
        "3",
        "4",
        "6",
    }
    assert load(tmp_path / "two", sigma_rel=0.1).step == 6


def test_a_run_of_two_processes_goes_on_in_one(tmp_path):
    """It sees the same data and noise as a run of one device from the start."""
    fields = NO_EVALS | SGD | dict(train__log_every=1, train__checkpoint_every=1)
    fields |= dict(train__keep_checkpoints=10, mesh__data=1, mesh__fsdp=-1)
    two_processes(tmp_path / "moved", fields | dict(train__steps=3))
    for name in ("moved", "one"):
        train(tmp_path / name, fields, devices=1)
    start = load(tmp_path / "one", step=1).state()
    results = [
        (start, load(tmp_path / name).state(), [row["loss"] for row in rows(tmp_path / name)])
        for name in ("one", "moved")
    ]
    check_same(*results)


def test_x64_changes_no_number(tmp_path):
    """A run under JAX_ENABLE_X64 and one without have the same weights and samples."""
    fields = NO_EVALS | {"train__steps": 3, "model__class_conditional": True}
    for flag in "01":
        variables = environment() | {"JAX_ENABLE_X64": flag}
        workdir, out = f"--workdir={tmp_path / flag}", f"--out={tmp_path / f'images{flag}'}"
        for line in (
            command("main", fields, workdir),
            command("sample", None, workdir, "--n=3", "--guidance=2", out),
        ):
            subprocess.run(line, env=variables, check=True, capture_output=True)
    one, two = (load(tmp_path / flag).state() for flag in "01")
    check_equal(one, two)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(two)} == {"float32", "int32"}
    check_equal(*(np.load(tmp_path / f"images{flag}.npz")["images"] for flag in "01"))
