"""launch/tpu_pod.sh against a stand-in for gcloud, whose hosts really train."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.launched import SECONDS, Launched

ROOT = Path(__file__).parents[2]
GCLOUD = ROOT / "tests" / "helpers" / "gcloud.py"


class Pod:
    """A slice of two hosts that the stand-in makes, and the script that starts runs on it."""

    def __init__(self, root: Path, **variables: str) -> None:
        (root / "bin").mkdir()
        self.gcloud = root / "bin" / "gcloud"
        self.gcloud.write_text(f'#!/bin/sh\nexec {sys.executable} {GCLOUD} "$@"\n')
        self.gcloud.chmod(0o755)
        self.state, self.launched = root / "state", Launched(root)
        self.state.mkdir()
        self.environment = {
            **os.environ,
            "PATH": f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": "",  # The hosts run the sources that were shipped to them.
            "GCLOUD_STATE": str(self.state),
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "2",
            "JAX_COMPILATION_CACHE_DIR": "",
            "CONFIG": str(self.launched.config),
            "WORKDIR": str(self.launched.workdir),
            "DEVICES": "4",
            "INSTALL": "true",
            "PYTHON": sys.executable,
            "POLL": "1",
            **variables,
        }

    def start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", str(ROOT / "launch" / "tpu_pod.sh"), *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=SECONDS)
        return process.returncode, output

    def calls(self) -> list[str]:
        """Returns what the script asked of gcloud, but for looks at the state and the run."""
        lines = (self.state / "calls.jsonl").read_text().splitlines()
        calls = [" ".join(json.loads(line)) for line in lines]
        return [call for call in calls if "describe" not in call and "ended=" not in call]

    def set_state(self, **states: str) -> None:
        (self.state / "state.json").write_text(json.dumps(states))


def words(text: str, calls: list[str]) -> list[str]:
    """Returns which words of a text are in each call, in order, to compare orders of events."""
    return [word for call in calls for word in text.split() if word in call]


def test_a_dry_run_asks_for_nothing(tmp_path):
    pod = Pod(tmp_path, BUCKET="mine", PROJECT="project", COORDINATOR_PORT="8476")
    code, output = pod.run("--dry_run", "up")
    assert code == 0 and not (pod.state / "calls.jsonl").exists()
    commands = [line for line in output.splitlines() if line.startswith("+ gcloud compute tpus ")]
    order = "create scp ddaepp_jax.preflight ddaepp_jax.main delete"
    assert words(order, output.splitlines()) == order.split()
    assert "--spot" in commands[0] and "--project=project" in commands[0]
    assert "--coordinator=auto" in output and "JAX_COORDINATOR_PORT=8476" in output
    assert "gcsfuse" in output and "'mine'" in output


def test_without_a_queue_a_tpu_vm_is_made(tmp_path):
    pod = Pod(tmp_path, QUEUED="no", SPOT="no")
    _, output = pod.run("--dry_run", "up")
    assert "tpu-vm create ddaepp --version=" in output and "--spot" not in output
    assert "queued-resources" not in output and "tpu-vm delete ddaepp --quiet" in output


def test_an_unknown_command_is_refused(tmp_path):
    code, output = Pod(tmp_path).run("fly")
    assert code == 2 and "usage" in output and "preflight" in output


def test_an_error_of_gcloud_is_shown(tmp_path):
    pod = Pod(tmp_path)
    pod.gcloud.write_text("#!/bin/sh\necho 'ERROR: you are not logged in' >&2\nexit 1\n")
    code, output = pod.run("status")
    assert code == 0 and "not logged in" in output and "ddaepp: unknown" in output
    code, output = pod.run("ship")
    assert code == 1 and "not logged in" in output


@pytest.mark.parametrize("queued", ["SUSPENDED", "FAILED", "ACTIVE"])
def test_what_was_preempted_is_made_anew(tmp_path, queued):
    pod = Pod(tmp_path)
    pod.set_state(queued=queued, vm="PREEMPTED")
    code, output = pod.run("create")
    assert code == 0 and "made anew" in output
    delete, create = pod.calls()
    assert "queued-resources delete ddaepp --force --quiet" in delete
    assert "queued-resources create ddaepp --node-id=ddaepp" in create
    assert pod.run("create")[0] == 0 and len(pod.calls()) == 2  # It is used again.


def test_a_failed_preflight_ends_it(tmp_path):
    pod = Pod(tmp_path, PYTHON="false")
    code, output = pod.run("up")
    assert code == 2 and "the start failed" in output and "delete" in output
    assert words("create preflight ddaepp_jax.main delete", pod.calls()) == ["create", "preflight"]


@pytest.mark.parametrize(
    ("codes", "outcome"),
    [
        (("0", "0"), "complete"),
        (("143", "75"), "again"),
        (("129", None), "again"),
        (("137", "0"), "again"),
        (("75", "1"), "failed 1"),
        (("2", "2"), "failed 2"),
        (("stopped", "143"), "stopped"),
    ],
)
def test_exit_codes_decide_what_comes_next(tmp_path, codes, outcome):
    pod = Pod(tmp_path)
    pod.set_state(queued="ACTIVE", vm="READY")
    for number, code in enumerate(codes):
        home = pod.state / f"host{number}"
        home.mkdir()
        if code == "stopped":
            (home / "stopped").touch()
        elif code:
            (home / "exit_code").write_text(f"{code}\n")
    assert f"the run: {outcome}\n" in pod.run("status")[1]


@pytest.mark.slow
def test_a_run_survives_a_preemption(tmp_path):
    pod = Pod(tmp_path)
    process = pod.start("up")
    try:
        pod.launched.wait(lambda: process.poll() is None)
        subprocess.run([pod.gcloud, "preempt"], env=pod.environment, check=True)
        length = pod.launched.end_soon()
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, output
    order = "create scp ddaepp_jax.preflight ddaepp_jax.main delete"
    assert words(order, pod.calls()) == order.split() * 2
    assert "the run: again" in output and "the run: complete" in output
    assert "made anew" in output and output.count("pass  train step") == 2
    pod.launched.check(length)


@pytest.mark.slow
def test_a_run_is_taken_over_and_stopped(tmp_path):
    pod = Pod(tmp_path)
    for command in ("create", "ship", "run"):
        assert pod.run(command)[0] == 0
    assert "the run: running" in pod.run("status")[1]
    process = pod.start("up")
    try:
        pod.launched.wait(lambda: process.poll() is None)
        assert pod.run("stop")[0] == 0
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0 and "the run: stopped" in output
    assert words("create jax.main preflight", pod.calls()) == ["create", "jax.main"]
    assert pod.run("delete")[0] == 0 and not (pod.state / "host0").exists()
