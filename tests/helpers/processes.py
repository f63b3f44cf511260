"""Programs that run as several real processes on 127.0.0.1, which share simulated devices."""

import socket
import subprocess
from collections.abc import Sequence

from helpers.run import environment

SECONDS = 600  # after which a test gives up


def free_address() -> str:
    """Returns the HOST:PORT of a port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


def start_together(
    command: Sequence[str], processes: int, devices: int, **options: object
) -> list[subprocess.Popen]:
    """Starts a program as several processes; as a single one, without a coordinator.

    Args:
      command: the command of the program.
      processes: number of processes.
      devices: devices of each process.
      options: further arguments of ``subprocess.Popen``.
    """
    options = {"env": environment(devices), "text": True, **options}
    if processes == 1:
        return [subprocess.Popen(list(command), **options)]
    joined = [f"--coordinator={free_address()}", f"--num_processes={processes}"]
    return [
        subprocess.Popen([*command, *joined, f"--process_id={number}"], **options)
        for number in range(processes)
    ]


def run_together(command: Sequence[str], processes: int, devices: int) -> list[str]:
    """Runs a program as ``start_together`` does, to its end, and checks that all succeed.

    Returns:
      What each process printed on stdout.
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = start_together(command, processes, devices, **pipes)
    try:
        printed = [process.communicate(timeout=SECONDS) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, printed, strict=True):
        assert process.returncode == 0, errors
    return [output for output, _ in printed]
