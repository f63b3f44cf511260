"""Preflight as two real processes: a good start, hosts that differ, a process that is missing."""

import os
import subprocess
import time

import pytest
from helpers.processes import SECONDS, free_address
from helpers.run import command, environment


def preflight(workdir, *differences, numbers=(0, 1), count=2):
    """Starts preflight as processes of two devices; returns (exit code, stdout, stderr) of each.

    Args:
      differences: (arguments, variables) of each process beyond the common ones.
      numbers: numbers of the processes that start, of ``count``.
    """
    joined = [f"--coordinator={free_address()}", f"--num_processes={count}"]
    started = []
    for number, (arguments, variables) in zip(numbers, differences, strict=True):
        start = command("preflight", {}, f"--workdir={workdir}", *joined, *arguments)
        started.append(
            subprocess.Popen(
                [*start, f"--process_id={number}"],
                env=environment(2) | variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        printed = [process.communicate(timeout=SECONDS) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(started, printed, strict=True)]


def failures(stdout):
    return [line for line in stdout.splitlines() if line.startswith("FAIL")]


@pytest.mark.slow
def test_two_processes_pass(tmp_path):
    first, second = preflight(tmp_path, ([], {}), ([], {}))
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert first[1].count("pass  ") == 12 and not failures(first[1])
    assert "2 processes on 1 host" in first[1] and "4 devices" in first[1]
    assert "pass" not in second[1]  # Process 0 prints for all.
    assert list(tmp_path.iterdir()) == []


def test_processes_that_differ_do_not_join(tmp_path):
    """Another version of a package, another config, and a directory that is not shared."""
    metadata = tmp_path / "packages" / "flax-9.9.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: flax\nVersion: 9.9\n")
    paths = f"{metadata.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    other = ["--config.train.steps=7", f"--workdir={tmp_path / 'other'}"]
    first, second = preflight(tmp_path / "run", ([], {}), (other, {"PYTHONPATH": paths}))
    assert (first[0], second[0]) == (2, 2)
    versions, config, directory = failures(first[1])
    assert "flax 9.9 on" in versions and "(process 1)" in versions and "install" in versions
    assert "--config" in config
    assert "--workdir" in directory and "(process 1)" in directory
    assert "3 checks failed" in first[2] and "3 checks failed" in second[2]


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, ["process 1 did not come", "firewall"]), (1, ["process 1 does not reach", "firewall"])],
)
def test_a_missing_process_is_named_in_time(tmp_path, number, words):
    start = time.monotonic()
    ((code, _, errors),) = preflight(tmp_path, (["--timeout=3"], {}), numbers=(number,))
    assert code == 2 and time.monotonic() - start < 60
    (line,) = errors.splitlines()
    assert [word for word in words if word not in line] == []
