"""The steps of the loop's looks for a signal, and the agreement on them."""

import time

import pytest
from test_ending import Service

from ddaepp_jax.base import board
from ddaepp_jax.base.stop import Stop
from ddaepp_jax.training import pace
from ddaepp_jax.training.pace import LOOK_SECONDS, Pace


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_looks_are_two_seconds_apart(clock):
    """One step at first; a speed counts only if it was measured for half of that time."""
    paced, signals = Pace(10), Stop("")
    assert paced.look(10, signals) == (11, 0)
    clock[0] = 0.001
    paced.finished(20)
    assert paced.look(20, signals) == (21, 0)
    clock[0] = 4.0
    paced.finished(50)  # 40 steps in 4 seconds
    assert paced.look(50, signals) == (50 + 10 * LOOK_SECONDS, 0)
    clock[0] = 104.0
    paced.finished(51)  # A step that takes longer is looked at by itself.
    assert paced.look(51, signals) == (52, 0)
    clock[0] = 200.0
    paced.restart(51)  # An evaluation does not count.
    clock[0] = 202.0
    paced.finished(61)
    signals.requested = 15
    assert paced.look(61, signals) == (61 + 5 * LOOK_SECONDS, 15)


def test_process_0_decides_for_all(clock, monkeypatch):
    """Each process gets its decisions, and a signal of any process is among them."""
    service = Service()
    monkeypatch.setattr(board, "_client", service)
    monkeypatch.setattr(board, "_processes", 3)
    counts = {0: iter(range(100)), 1: iter(range(100))}
    paces = {number: Pace(0) for number in counts}
    signals = {number: Stop("") for number in counts}

    def look(process, step):
        monkeypatch.setattr(board, "_process", process)
        monkeypatch.setattr(pace, "_looks", counts[process])
        return paces[process].look(step, signals[process])

    first = look(0, 0)
    paces[1].finished(1000)  # Its own speed does not matter.
    clock[0] = 4.0
    assert look(1, 0) == first == (1, 0)
    paces[0].finished(40)
    second = look(0, 40)
    assert look(1, 40) == second == (40 + 10 * LOOK_SECONDS, 0)
    service.notes["signal/2"] = "15"
    for step in range(60, 70):
        assert look(0, step) == look(1, step) == (step + 10 * LOOK_SECONDS, 15)
    assert sum(name.startswith("look/") for name in service.notes) <= 4  # Old notes are removed.
