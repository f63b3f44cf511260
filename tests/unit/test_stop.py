"""Signals are taken wherever they arrive."""

import errno
import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers.errors import expect_error

from ddaepp_jax.base.errors import Stopped
from ddaepp_jax.base.lock import NAME, locked
from ddaepp_jax.base.stop import SIGNALS, Signals, Stop


@pytest.fixture(autouse=True)
def not_ignored():
    """No signal is ignored, as Ctrl-C is in a job in the background, and SIGHUP after nohup."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def wait_for(condition):
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert condition()


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_to_stop(number, capsys):
    before = {each: signal.getsignal(each) for each in SIGNALS}
    with Stop("the answer") as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        wait_for(lambda: stop.requested == number)
    assert {each: signal.getsignal(each) for each in SIGNALS} == before
    assert f"{SIGNALS[number]}: the answer" in capsys.readouterr().err


def test_a_loop_inside_a_training_leaves_the_signal_to_it(capsys):
    with Stop("the answer") as training, Stop() as inner:
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: training.requested == signal.SIGTERM)
        inner.check()
    assert not inner.requested
    with Stop() as alone:  # prints nothing, as its check has the line
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: alone.requested)
        with pytest.raises(Stopped, match="terminated; the same command") as stopped:
            alone.check()
    assert pickle.loads(pickle.dumps(stopped.value)).exit_code == 143
    assert capsys.readouterr().err == "\nterminated: the answer\n"


def test_a_second_sigterm_does_not_end_the_save():
    with Stop("the answer") as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
            wait_for(lambda: stop.requested == signal.SIGTERM)


class Gone(io.StringIO):
    def write(self, text):
        raise OSError(errno.EIO, "Input/output error")


def test_the_end_of_the_terminal_asks_to_stop(monkeypatch):
    """Nothing can be printed then; the next signal is still taken."""
    monkeypatch.setattr(sys, "stderr", Gone())
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with Stop("the answer") as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        wait_for(lambda: stop.requested == signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: ended == [130])


def test_blocks_can_be_nested():
    outer = []
    with Signals(outer.append):
        with Stop("the answer") as stop:
            os.kill(os.getpid(), signal.SIGINT)
            wait_for(lambda: stop.requested)
        assert outer == []
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: outer == [signal.SIGTERM])


def test_it_leaves_signals_alone_where_it_may_not_take_them():
    handler = signal.getsignal(signal.SIGINT)
    seen = []

    def inside():
        with Stop("the answer"):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [handler]


COLLECTED = """
import os, signal, time, weakref
signal.signal(signal.SIGINT, signal.default_int_handler)
from ddaepp_jax.base.stop import Stop
class Thing: pass
def callback(_):
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000): pass  # Python would raise KeyboardInterrupt here, and lose it.
with Stop("the answer") as stop:
    thing = Thing()
    reference = weakref.ref(thing, callback)
    del thing
    time.sleep(0.5)
    print(stop.requested)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
"""


def test_a_signal_in_a_callback_is_not_lost_and_a_second_ctrl_c_ends_the_process():
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", COLLECTED], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "2\n")
    assert "the answer" in done.stderr and "Traceback" not in done.stderr
    assert time.monotonic() - start < 20


def test_a_lock_is_held_by_one_and_names_its_owner(tmp_path):
    with (
        locked(tmp_path, "wait"),
        expect_error(str(tmp_path), f"process {os.getpid()} on ", "wait"),
        locked(tmp_path, "wait"),
    ):
        pass
    with locked(tmp_path, "wait"):
        pass
    assert (tmp_path / NAME).is_file()


HOLD = """
import sys, time
from pathlib import Path
from ddaepp_jax.base.lock import locked
with locked(Path(sys.argv[1]), "wait"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_dies_with_its_owner(tmp_path):
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout.readline() == "held\n"
    with expect_error(str(tmp_path), f"process {owner.pid} on "), locked(tmp_path, "wait"):
        pass
    owner.kill()
    owner.wait()
    owner.stdout.close()
    with locked(tmp_path, "wait"):
        pass


def test_a_directory_that_cannot_be_locked(tmp_path):
    missing = tmp_path / "missing"
    with expect_error(str(missing), "cannot be written", "writable"), locked(missing, "mend"):
        pass
