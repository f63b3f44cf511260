"""The end of one process ends the others, and a stuck or aborted process says so."""

import json
import os
import subprocess
import sys

import pytest

from ddaepp_jax.base import board, ending
from ddaepp_jax.base.errors import SaveError


class Service:
    """A stand-in for the client of JAX's service, in one process."""

    def __init__(self):
        self.notes = {}

    def key_value_set(self, name, text, allow_overwrite):
        assert allow_overwrite
        self.notes[name] = text

    def key_value_dir_get(self, folder):
        return [(name, text) for name, text in self.notes.items() if name.startswith(folder)]

    def key_value_delete(self, name):
        self.notes.pop(name, None)

    def blocking_key_value_get(self, name, milliseconds):
        return self.notes[name]


class Ended(BaseException):
    """Stands for the end of the process, with its exit code."""


@pytest.fixture
def second_of_two(monkeypatch):
    """Process 1 of two; returns its service."""
    service = Service()
    monkeypatch.setattr(board, "_client", service)
    monkeypatch.setattr(board, "_process", 1)
    monkeypatch.setattr(board, "_processes", 2)
    monkeypatch.setattr(ending, "_ending", ending.threading.Lock())
    monkeypatch.setattr(ending, "_codes", [])

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    return service


def note(process, line, code):
    return json.dumps({"process": process, "line": line, "code": code})


def test_a_process_that_ends_tells_the_others(second_of_two, capsys):
    with pytest.raises(Ended, match="2"):
        ending.end_process("error: data: gone", 2)
    assert capsys.readouterr().err == "error: data: gone\n"
    assert second_of_two.notes == {"ended/1": note(1, "error: data: gone", 2)}


def test_a_process_ends_like_another_one(second_of_two, monkeypatch, capsys):
    """It prints the other's line, has its exit code, and passes both on."""
    monkeypatch.setattr(ending, "_LOOK_SECONDS", 0.001)
    second_of_two.notes["ended/0"] = note(5, "error: data: gone", 2)
    with pytest.raises(Ended, match="2"):
        ending._watch()
    assert capsys.readouterr().err == "error: process 5 has ended: data: gone\n"
    assert second_of_two.notes["ended/1"] == second_of_two.notes["ended/0"]


def test_a_lost_connection_is_explained_by_the_process_that_ended(second_of_two, capsys):
    with pytest.raises(Ended, match="75"):
        ending.end_without_peers("Gloo failed")
    line = capsys.readouterr().err
    assert "died" in line and "Gloo failed" in line and "start all processes again" in line
    ending._ending = ending.threading.Lock()
    second_of_two.notes["ended/0"] = note(0, "error: full", 1)
    with pytest.raises(Ended, match="1"):
        ending.end_without_peers("Gloo failed")
    assert capsys.readouterr().err == "error: process 0 has ended: full\n"


def test_a_service_that_cannot_be_reached_holds_nothing_up(second_of_two, monkeypatch, capsys):
    monkeypatch.setattr(second_of_two, "key_value_set", lambda *_, **__: 1 / 0)
    with pytest.raises(Ended, match="1"):
        ending.end_process("error: full", 1)
    monkeypatch.setattr(second_of_two, "key_value_dir_get", lambda _: 1 / 0)
    monkeypatch.setattr(ending, "_LOOK_SECONDS", 0.001)
    ending._watch()  # JAX ends the process.


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer"), True),
        (RuntimeError("UNAVAILABLE: failed to connect"), True),
        (RuntimeError("DEADLINE_EXCEEDED: Barrier timed out"), True),
        (RuntimeError("NCCL operation failed"), True),
        (RuntimeError("RESOURCE_EXHAUSTED: out of memory"), False),
        (KeyError("x"), False),
    ],
)
def test_an_error_of_communication_is_known(error, lost):
    assert ending.lost_peer(error) is lost
    wrapped = SaveError("run: cannot be saved")
    wrapped.__cause__ = error
    assert ending.lost_peer(wrapped) is lost


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )


def test_an_abort_ends_in_a_line_and_a_code_that_restarts():
    done = run(
        "import os, threading, time\n"
        "from ddaepp_jax.base.ending import report_aborts\n"
        "report_aborts()\n"
        "threading.Thread(target=os.abort).start()\n"
        "time.sleep(60)\n"
    )
    assert done.returncode == 75, done.stderr
    assert done.stderr.startswith("error: JAX aborted") and done.stderr.count("\n") == 1


STUCK = """
import time
from ddaepp_jax.training.watchdog import Watchdog
with Watchdog(0):
    time.sleep(1)
with Watchdog(0.5) as watchdog:
    with watchdog.pause():
        time.sleep(1)
    for _ in range(10):
        time.sleep(0.1)
        watchdog.finished()
    print("alive", flush=True)
    def stuck():
        time.sleep(60)
    stuck()
"""


def test_a_stuck_training_shows_its_threads_and_ends():
    """Pauses do not count, and a finished step begins a new time."""
    done = run(STUCK)
    assert (done.returncode, done.stdout) == (75, "alive\n"), done.stderr
    assert "in stuck" in done.stderr and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: no step has finished for 0.5 s (--stuck_timeout)")
