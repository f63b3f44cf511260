"""A stand-in for gcloud's TPU commands: hosts are directories, and their commands local processes.

$GCLOUD_STATE holds calls.jsonl, the arguments of every call; state.json, the states of the queued
resource and of the TPU VM; and the home directories of the two hosts. Processes find each other by
the variables of Open MPI, which JAX's own detection reads. The further command "preempt" does what
a preemption does: SIGTERM to all that runs, and then the hosts are gone.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(os.environ["GCLOUD_STATE"])
HOSTS = 2
GRACE = 5.0  # seconds between SIGTERM and the end of a host


def option(name: str) -> str | None:
    """Returns the value of --NAME=VALUE."""
    start = f"--{name}="
    return next((text[len(start) :] for text in sys.argv if text.startswith(start)), None)


def states() -> dict[str, str]:
    file = ROOT / "state.json"
    return json.loads(file.read_text()) if file.exists() else {}


def set_states(**values: str) -> None:
    new = ROOT / f"state.{os.getpid()}"
    new.write_text(json.dumps(values))
    new.replace(ROOT / "state.json")  # A reader sees the old states or the new ones.


def homes() -> list[Path]:
    chosen = option("worker")
    return [ROOT / f"host{n}" for n in range(HOSTS) if chosen in ("all", str(n))]


def not_found() -> None:
    sys.exit("ERROR: (gcloud.compute.tpus) NOT_FOUND: Resource was not found")


def ssh() -> int:
    if states().get("vm") != "READY":
        not_found()
    started = []
    for home in homes():
        number = home.name.removeprefix("host")
        variables = {
            "HOME": str(home),
            "OMPI_MCA_orte_hnp_uri": f"{4096 * os.getppid()}.0;tcp://127.0.0.1:1",
            "OMPI_COMM_WORLD_SIZE": str(HOSTS),
            "OMPI_COMM_WORLD_RANK": number,
            "OMPI_COMM_WORLD_LOCAL_RANK": "0",
        }
        command = ["bash", "-c", option("command")]
        started.append(subprocess.Popen(command, cwd=home, env=os.environ | variables))
    return max(process.wait() for process in started)


def preempt() -> None:
    set_states(queued="SUSPENDING", vm="PREEMPTED")  # Commands reach the hosts no more.
    groups = [int((ROOT / f"host{n}" / "pid").read_text()) for n in range(HOSTS)]
    for group in groups:
        os.killpg(group, signal.SIGTERM)
    time.sleep(GRACE)
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    set_states(queued="SUSPENDED", vm="PREEMPTED")


def main() -> int:
    with (ROOT / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(sys.argv[1:]) + "\n")
    match sys.argv[1:]:
        case ["preempt"]:
            preempt()
        case ["compute", "tpus", "queued-resources" | "tpu-vm", "create", *_]:
            if states():
                sys.exit("ERROR: (gcloud.compute.tpus) ALREADY_EXISTS")
            for number in range(HOSTS):
                (ROOT / f"host{number}").mkdir()
            set_states(queued="ACTIVE", vm="READY")
        case ["compute", "tpus", kind, "describe", *_]:
            state = states().get("vm" if kind == "tpu-vm" else "queued")
            print(state) if state else not_found()
        case ["compute", "tpus", "queued-resources" | "tpu-vm", "delete", *_]:
            for number in range(HOSTS):
                shutil.rmtree(ROOT / f"host{number}", ignore_errors=True)
            set_states()
        case ["compute", "tpus", "tpu-vm", "scp", source, *_]:
            for home in homes():
                shutil.copy(source, home)
        case ["compute", "tpus", "tpu-vm", "ssh", *_]:
            return ssh()
        case _:
            sys.exit(f"ERROR: unknown command {sys.argv[1:]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
