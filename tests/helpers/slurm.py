"""Slurm on one machine: a controller and a node of our own, which share nothing with another.

JAX derives the port where processes meet from the number of the job; the first job's number differs
from cluster to cluster, too.
"""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue")
GPUS = ("/dev/null", "/dev/zero")  # files that stand for devices
CONFIG = """
ClusterName=test
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller}
FirstJobId={controller}
SlurmdPort={node}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MailProg=/bin/true
MpiDefault=none
GresTypes=gpu
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=localhost CPUs=4 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Returns why Slurm cannot run here; "" if it can."""
    absent = [program for program in PROGRAMS if _path(program) is None]
    if absent:
        return f"{', '.join(absent)} not installed (apt-get install slurmctld slurmd slurm-client)"
    return "" if os.getuid() == 0 else "slurmd runs as root only"


def _path(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")


class Slurm:
    """A cluster of one node with two GPUs that are none; used in a ``with`` block."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._daemons: list[subprocess.Popen] = []
        self.environment = {**os.environ, "SLURM_CONF": str(root / "slurm.conf")}

    def __enter__(self) -> "Slurm":
        for name in ("state", "spool"):
            (self._root / name).mkdir(parents=True)
        with socket.socket() as first, socket.socket() as second:
            ports = []
            for listener in (first, second):
                listener.bind(("127.0.0.1", 0))
                ports.append(listener.getsockname()[1])
        text = CONFIG.format(root=self._root, controller=ports[0], node=ports[1], gpus=len(GPUS))
        (self._root / "slurm.conf").write_text(text)
        devices = [f"NodeName=localhost Name=gpu File={file}\n" for file in GPUS]
        (self._root / "gres.conf").write_text("".join(devices))
        config = str(self._root / "slurm.conf")
        for daemon in (["slurmctld", "-D", "-f"], ["slurmd", "-D", "-N", "localhost", "-f"]):
            self._daemons.append(
                subprocess.Popen(
                    [_path(daemon[0]), *daemon[1:], config],
                    env=self.environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
        deadline = time.monotonic() + 60
        while "idle" not in self.command("sinfo", "--noheader", "--format=%T", check=False):
            assert time.monotonic() < deadline, (self._root / "slurmctld.log").read_text()
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        self.command("scancel", "--user=root", check=False)
        deadline = time.monotonic() + 60
        while self.command("squeue", "--noheader", check=False) and time.monotonic() < deadline:
            time.sleep(0.5)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            daemon.wait()

    def command(self, *command: str, check: bool = True, **variables: str) -> str:
        """Runs one of Slurm's commands; returns what it prints."""
        done = subprocess.run(
            command, env=self.environment | variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout.strip()

    def job(self, job: str, field: str) -> str:
        """Returns a field of a job, e.g. JobState, as ``scontrol show job`` shows it."""
        shown = self.command("scontrol", "show", "job", job).split()
        return next(word for word in shown if word.startswith(f"{field}=")).partition("=")[2]
