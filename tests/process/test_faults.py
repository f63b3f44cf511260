"""Signals, deaths and errors in trainings of real processes: one clear line, and nothing lost."""

import contextlib
import signal
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import soak_kill
from helpers.processes import SECONDS, start_together
from helpers.run import NO_EVALS, command, environment, rows

from ddaepp_jax import load
from ddaepp_jax.base.ending import RESTART
from ddaepp_jax.base.lock import locked
from ddaepp_jax.training.checkpoint import steps_of

pytestmark = pytest.mark.slow

PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
LONG = NO_EVALS | dict(
    train__steps=10**6,
    train__log_every=5,
    train__checkpoint_every=10**6,
    optimizer__schedule="constant",  # The run is resumed with another length.
)


@contextlib.contextmanager
def together(workdir, fields, *arguments, first=(), **options):
    """Starts a training of two processes; what is left of it at the end is killed."""
    line = [*first, *command("main", fields, f"--workdir={workdir}", *arguments)]
    processes = start_together(line, 2, 1, **PIPES | options)
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def wait_until(condition, processes):
    deadline = time.monotonic() + SECONDS
    while not condition():
        codes = [process.poll() for process in processes]
        assert not any(codes), (codes, [process.communicate() for process in processes])
        assert time.monotonic() < deadline
        time.sleep(0.01)


def trains(workdir: Path) -> bool:
    return (workdir / "metrics.jsonl").exists() and len(rows(workdir)) > 0


def end(process) -> tuple[int, list[str]]:
    """The exit code of a process that ends by itself, and its lines on stderr."""
    _, errors = process.communicate(timeout=SECONDS)
    return process.returncode, errors.splitlines()


@pytest.mark.parametrize("asked", [[0], [1], [0, 1]], ids=str)
def test_a_signal_to_any_process_saves_one_step_in_all(tmp_path, asked):
    """The same command then ends as a run that was never stopped, bit for bit."""
    with together(tmp_path / "run", LONG) as processes:
        wait_until(lambda: trains(tmp_path / "run"), processes)
        for number in asked:
            processes[number].send_signal(signal.SIGTERM)
        ends = [end(process) for process in processes]
    (step,) = steps_of(tmp_path / "run" / "checkpoints")
    for code, lines in ends:
        assert code == 128 + signal.SIGTERM, lines
        assert lines[-1] == f"stopped at step {step}, which is saved; the same command resumes"
        assert not any("Traceback" in line for line in lines), lines
    if asked != [1]:
        return
    fields = LONG | dict(train__steps=step + 5)
    for name in ("run", "whole"):
        with together(tmp_path / name, fields) as processes:
            assert [end(process)[0] for process in processes] == [0, 0]
    states = [jax.device_get(load(tmp_path / name).state()) for name in ("run", "whole")]
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert soak_kill.losses(tmp_path / "run") == soak_kill.losses(tmp_path / "whole")


@pytest.mark.parametrize("number", [0, 1])
def test_the_death_of_a_process_ends_the_others(tmp_path, number):
    with together(tmp_path / "run", LONG, "--heartbeat_timeout=30") as processes:
        wait_until(lambda: trains(tmp_path / "run"), processes)
        processes[number].kill()
        start = time.monotonic()
        code, lines = end(processes[1 - number])
    assert time.monotonic() - start < 90
    assert code == RESTART, lines
    (line,) = (line for line in lines if line.startswith("error: "))
    assert "died" in line and "start all processes again" in line


@pytest.mark.parametrize("number", [0, 1])
def test_a_stuck_process_ends_the_others(tmp_path, number):
    """A stopped process stands for one that never joins a collective operation."""
    timeouts = ("--stuck_timeout=10", "--heartbeat_timeout=300")
    with together(tmp_path / "run", LONG, *timeouts) as processes:
        wait_until(lambda: trains(tmp_path / "run"), processes)
        processes[number].send_signal(signal.SIGSTOP)
        code, lines = end(processes[1 - number])
    assert code == RESTART, lines
    assert any("most recent call first" in line for line in lines), lines
    (line,) = (line for line in lines if line.startswith("error: "))
    assert "--stuck_timeout" in line and "start all processes again" in line


def test_an_error_of_one_process_ends_all_with_its_line(tmp_path):
    """Only process 0 looks at the lock, and tells the other one."""
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run", ""), together(tmp_path / "run", LONG) as processes:
        start = time.monotonic()
        (code, lines), (other_code, other_lines) = (end(process) for process in processes)
    assert time.monotonic() - start < 120
    assert code == other_code == 2, (lines, other_lines)
    assert lines[-1].startswith(f"error: {tmp_path / 'run'}: process ")
    assert other_lines[-1] == lines[-1]


def test_a_full_disk_of_one_process_ends_all_with_its_line(tmp_path):
    """The second process cannot write its part of a checkpoint."""
    limit = 'case "$*" in *process_id=1*) ulimit -f 8;; esac; exec "$@"'
    fields = LONG | dict(train__checkpoint_every=5, mesh__data=1, mesh__fsdp=-1)
    with together(tmp_path / "run", fields, first=("sh", "-c", limit, "sh")) as processes:
        wait_until(lambda: trains(tmp_path / "run"), processes)
        start = time.monotonic()
        ends = [end(process) for process in processes]
    assert time.monotonic() - start < 90
    for code, lines in ends:
        assert code == 1 and not any("Traceback" in line for line in lines), lines
        assert lines[-1].startswith("error: "), lines
    assert any("large" in lines[-1] and "process 1" in lines[-1] for _, lines in ends), ends


@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_during_compilation_ends_at_once(tmp_path, processes):
    line = command("main", LONG, f"--workdir={tmp_path / 'run'}")
    if processes == 1:
        line = [line[0], "-u", *line[1:]]
        started = [subprocess.Popen(line, env=environment(), text=True, **PIPES)]
    else:
        started = start_together(line, 2, 1, **PIPES)
    try:
        while "compiling" not in (said := started[0].stdout.readline()):
            assert said, end(started[0])
        start = time.monotonic()
        started[-1].send_signal(signal.SIGTERM)
        ends = [end(process) for process in started]
    finally:
        for process in started:
            process.kill()
    assert time.monotonic() - start < 30
    for code, lines in ends:
        assert code == 128 + signal.SIGTERM, lines
        assert "terminated; the same command continues" in lines[-1], lines


@pytest.mark.parametrize(("kills", "processes"), [(5, 1), (2, 2)])
def test_a_run_that_is_killed_often_is_the_run_that_never_was(tmp_path, kills, processes):
    *events, summary = soak_kill.soak(tmp_path, kills, processes)
    assert len(events) == kills and summary["equal"]
