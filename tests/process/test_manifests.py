"""The scripts and manifests in launch/: their form, and what their commands start."""

import copy
import json
import os
import re
import shutil
import signal
import string
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
# Another process died or is stuck; the signals HUP, ABRT, KILL and TERM.
AGAIN = [75, 129, 134, 137, 143]


def schema(name: str) -> dict:
    return json.loads((ROOT / "tests" / "helpers" / "schemas" / f"{name}.json").read_text())


def jobset(**changes: str) -> tuple[dict, dict[str, str]]:
    """Returns the JobSet with its variables filled in, and the variables of its first comment."""
    text = (LAUNCH / "gke_jobset.yaml").read_text()
    exported = re.findall(r"^#   export (\w+)=(\S*)", text, re.MULTILINE)
    variables = dict(exported) | changes
    return yaml.safe_load(string.Template(text).substitute(variables)), variables


def skypilot() -> dict:
    return yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())


# ---- form ----


def shellcheck(text: str) -> str:
    """Returns what shellcheck finds in a script."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    program = shutil.which("shellcheck", path=places)
    assert program, "shellcheck is missing; install the extra [test]"
    done = subprocess.run(
        [program, "--shell=bash", "-"], input=text, capture_output=True, text=True, check=False
    )
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_have_no_faults(script):
    assert shellcheck(script.read_text()) == ""
    assert os.access(script, os.X_OK)


def test_scripts_in_manifests_have_no_faults():
    task = skypilot()
    assert shellcheck(task["setup"]) == "" and shellcheck(task["run"]) == ""
    assert "SC2086" in shellcheck("x=$1\ncat $x")  # Faults are found.


def test_the_jobset_has_the_fields_of_the_api():
    manifest, variables = jobset()
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    check = jsonschema.Draft202012Validator(schema("jobset"))
    check.validate(manifest["spec"])
    for path, name in (("failurePolicy", "maxRestart"), ("replicatedJobs", "template")):
        wrong = copy.deepcopy(manifest["spec"])
        wrong[path] = {name: 3}
        assert not check.is_valid(wrong)
    total = int(variables["HOSTS"]) * int(variables["CHIPS"])
    x, y = map(int, variables["TOPOLOGY"].split("x"))
    assert total == int(variables["DEVICES"]) == x * y


def test_a_jobset_starts_all_pods_anew_or_none():
    job = jobset(HOSTS="7")[0]["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 7
    assert job["backoffLimit"] == 0 and job["template"]["spec"]["restartPolicy"] == "Never"


def test_the_task_has_the_fields_of_skypilot():
    check = jsonschema.Draft202012Validator(schema("skypilot"))
    check.validate(skypilot())
    assert not check.is_valid(skypilot() | {"num_node": 2})
    assert not check.is_valid(skypilot() | {"resources": {"job_recovery": {"exit_codes": [1]}}})


def test_all_launchers_repeat_the_same_exit_codes():
    (rule,) = jobset()[0]["spec"]["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"][
        "rules"
    ]
    assert (rule["action"], rule["onExitCodes"]["operator"]) == ("FailJob", "NotIn")
    assert rule["onExitCodes"]["values"] == AGAIN
    assert skypilot()["resources"]["job_recovery"]["recover_on_exit_codes"] == AGAIN
    for name in ("tpu_pod.sh", "slurm.sbatch"):
        (codes,) = re.findall(r'^again=" (.*) "$', (LAUNCH / name).read_text(), re.MULTILINE)
        assert list(map(int, codes.split())) == AGAIN


# ---- what the commands start ----

# Writes its arguments; "main" waits for SIGTERM, and preflight ends with $PREFLIGHT.
PYTHON = """#!/usr/bin/env bash
echo "$@" >> "$RECORD"
[[ "$2" == ddaepp_jax.main ]] || exit "$PREFLIGHT"
trap 'exit 143' TERM
while true; do sleep 0.1; done
"""


class Started:
    """A command of a manifest, with a stand-in for Python."""

    def __init__(self, root: Path, command: list[str], preflight: int = 0, **variables: str):
        for place in (root / "python", root / "ddaepp-venv" / "bin" / "python"):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(PYTHON)
            place.chmod(0o755)
        self.record = root / "record"
        self.record.touch()
        path = f"{root}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "HOME": str(root), "RECORD": str(self.record)}
        environment = os.environ | own | {"PREFLIGHT": str(preflight)} | variables
        self.process = subprocess.Popen(command, env=environment, start_new_session=True)

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.record.read_text().splitlines()]

    def wait(self, lines: int) -> list[list[str]]:
        """Waits until the stand-in was started so often."""
        deadline = time.monotonic() + 60
        while len(self.lines()) < lines:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return self.lines()


def test_a_pod_checks_and_then_takes_sigterm(tmp_path):
    manifest, _ = jobset(ARGS="--config.seed=3 --config.train.steps=9")
    (pod,) = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"][
        "containers"
    ]
    started = Started(tmp_path, pod["command"])
    preflight, main = started.wait(2)
    common = ["--config=configs/uvit_cifar.py", "--workdir=/shared/runs/uvit_cifar"]
    own = ["--config.seed=3", "--config.train.steps=9"]
    start = [*common, "--coordinator=auto"]
    assert preflight == ["-m", "ddaepp_jax.preflight", *start, "--devices=16", *own]
    assert main == ["-m", "ddaepp_jax.main", *start, *own]
    started.process.send_signal(signal.SIGTERM)  # to the first process of the pod alone
    assert started.process.wait(30) == 143
    failed = Started(tmp_path / "failed", pod["command"], preflight=2)
    assert failed.process.wait(30) == 2 and len(failed.lines()) == 1


def test_skypilot_starts_one_process_a_node(tmp_path):
    task = skypilot()
    variables = {
        **task["envs"],
        "ARGS": "--config.seed=3 --config.train.steps=9",
        "SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.5",
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NUM_GPUS_PER_NODE": "8",
    }
    started = Started(tmp_path, ["bash", "-c", task["run"]], **variables)
    preflight, main = started.wait(2)
    os.killpg(started.process.pid, signal.SIGTERM)
    started.process.wait(30)
    start = [
        "--config=configs/uvit_cifar.py",
        "--workdir=/shared/runs/uvit_cifar",
        "--coordinator=10.0.0.4:8476",
        "--num_processes=2",
        "--process_id=1",
        "--config.seed=3",
        "--config.train.steps=9",
    ]
    assert preflight == ["-m", "ddaepp_jax.preflight", *start, "--devices=16"]
    assert main == ["-m", "ddaepp_jax.main", *start]
    failed = Started(tmp_path / "failed", ["bash", "-c", task["run"]], preflight=2, **variables)
    assert failed.process.wait(30) == 2 and len(failed.lines()) == 1
