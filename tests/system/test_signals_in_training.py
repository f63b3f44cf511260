"""A signal that comes in an evaluation or in a save loses nothing."""

import os
import signal

import jax
import numpy as np
import pytest
from helpers.run import NO_EVALS, PLAIN, config, rows

from ddaepp_jax import load
from ddaepp_jax.base.errors import SaveError, Stopped
from ddaepp_jax.run.train import train_and_evaluate
from ddaepp_jax.training import loop
from ddaepp_jax.training.checkpoint import Checkpoints, steps_of

FIELDS = PLAIN | NO_EVALS | dict(evals__heldout_loss__every=2)


def strip(workdir):
    speed = ("images_per_second_per_device", "mfu")
    return [{k: v for k, v in row.items() if k not in speed} for row in rows(workdir)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    train_and_evaluate(config(**FIELDS), directory)
    return directory


def signalled(function, step):
    """Returns a function that gets SIGTERM when it is called for a step."""

    def called(*args, **kwargs):
        if step in args or any(getattr(arg, "get", lambda _: 0)("step") == step for arg in args):
            os.kill(os.getpid(), signal.SIGTERM)
        return function(*args, **kwargs)

    return called


@pytest.mark.parametrize(
    ("owner", "name", "step"),
    [(loop, "_evaluate", 2), (loop, "_evaluate", 4), (loop.Outputs, "save", 3)],
    ids=["evaluation", "evaluation after a save", "save"],
)
def test_a_signal_in_a_pause_stops_the_run_after_it(
    whole, tmp_path, monkeypatch, owner, name, step
):
    """The state of this step is saved, its evaluation is there, and the run goes on as one."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Stopped, match=f"step {step}, ") as ended:
        patch.setattr(owner, name, signalled(getattr(owner, name), step))
        train_and_evaluate(config(**FIELDS), run)
    assert ended.value.exit_code == 143
    assert max(steps_of(run / "checkpoints")) == step
    train_and_evaluate(config(**FIELDS), run)
    states = [jax.device_get(load(each).state()) for each in (run, whole)]
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert strip(run) == strip(whole)


@pytest.mark.parametrize("saves", [1, 2], ids=["at the next save", "at the end"])
def test_the_error_of_a_save_in_the_background_surfaces(tmp_path, monkeypatch, saves):
    """Nothing polls for it here."""
    monkeypatch.setattr(Checkpoints, "poll", lambda self: None)
    start = Checkpoints.__init__

    def broken(self, *args, **kwargs):
        start(self, *args, **kwargs)

        def check():
            if 3 * saves in steps_of(tmp_path / "run" / "checkpoints"):
                raise OSError(28, "No space left on device")

        self._saver._manager.check_for_errors = check

    monkeypatch.setattr(Checkpoints, "__init__", broken)
    with pytest.raises(SaveError, match=f"checkpoints/{3 * saves}: .*No space left on device"):
        train_and_evaluate(config(**PLAIN | NO_EVALS), tmp_path / "run")
