"""launch/slurm.sbatch under a real Slurm on this machine."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import slurm
from helpers.launched import SECONDS, Launched

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "launch" / "slurm.sbatch")

needs_slurm = pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing() or "there is Slurm")


def test_a_dry_run_prints_both_steps():
    done = subprocess.run(
        ["bash", SCRIPT, "--dry_run"],
        env=os.environ | {"CONFIG": "configs/dit_s_cifar.py:tiny", "ARGS": "--config.seed=1 --x=2"},
        capture_output=True,
        text=True,
        check=True,
    )
    preflight, main = done.stdout.splitlines()
    assert preflight.startswith("+ srun ") and "-m ddaepp_jax.preflight" in preflight
    assert "-m ddaepp_jax.main --config=configs/dit_s_cifar.py:tiny" in main
    assert "--workdir=runs/dit_s_cifar --coordinator=auto --config.seed=1 --x=2" in main


class Job:
    """The script as a job of two tasks, with a run that has no end."""

    def __init__(self, cluster: slurm.Slurm, root: Path, **variables: str) -> None:
        self.cluster, self.launched, self.output = cluster, Launched(root), root / "log"
        options = ["--ntasks-per-node=2", "--cpus-per-task=2", "--gres=gpu:2"]
        self.number = cluster.command(
            *("sbatch", "--parsable", f"--chdir={ROOT}", f"--output={self.output}", *options),
            SCRIPT,
            PYTHON=sys.executable,
            CONFIG=str(self.launched.config),
            WORKDIR=str(self.launched.workdir),
            PYTHONPATH=str(ROOT),
            JAX_PLATFORMS="cpu",
            **variables,
        )

    def state(self) -> str:
        return self.cluster.job(self.number, "JobState")

    def wait(self, *states: str) -> str:
        """Waits for one of the states; returns what the job printed."""
        deadline = time.monotonic() + SECONDS
        while (state := self.state()) not in states:
            assert time.monotonic() < deadline, state
            time.sleep(0.2)
        return self.output.read_text()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm.Slurm(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@needs_slurm
@pytest.mark.slow
def test_a_job_whose_time_ends_goes_on(cluster, tmp_path):
    """The batch shell alone gets SIGTERM, as --signal=B:TERM sends it before the time is up."""
    job = Job(cluster, tmp_path)
    job.launched.wait(lambda: job.state() in ("PENDING", "RUNNING"))
    cluster.command("scancel", "--signal=TERM", "--batch", job.number)
    assert "goes back into the queue" in job.wait("PENDING", "REQUEUED")
    length = job.launched.end_soon()
    time.sleep(5)  # The node refuses a job again for as long as it clears up after it.
    # Slurm itself would wait for two minutes.
    cluster.command("scontrol", "update", f"JobId={job.number}", "StartTime=now")
    output = job.wait("COMPLETED", "FAILED")
    assert job.state() == "COMPLETED", output
    assert cluster.job(job.number, "Restarts") == "1"
    assert output.count("srun --cpus-per-task=2") == 4  # srun does not take it from the job.
    assert output.count("2 processes on 1 host") == 2 and "exit code 143" in output
    job.launched.check(length)


@needs_slurm
@pytest.mark.slow
def test_a_job_that_is_cancelled_stays_so(cluster, tmp_path):
    job = Job(cluster, tmp_path)
    job.launched.wait(lambda: job.state() in ("PENDING", "RUNNING"))
    cluster.command("scancel", job.number)
    job.wait("CANCELLED")
    time.sleep(10)
    assert job.state() == "CANCELLED" and cluster.job(job.number, "Restarts") == "0"


@needs_slurm
@pytest.mark.slow
def test_an_error_is_not_repeated(cluster, tmp_path):
    job = Job(cluster, tmp_path, ARGS="--config.train.batch_size=7")
    output = job.wait("FAILED", "COMPLETED")
    assert job.state() == "FAILED" and cluster.job(job.number, "ExitCode") == "2:0"
    assert "train.batch_size" in output and "ddaepp_jax.main" not in output
