"""A tiny run for the scripts in launch/, whose length a test sets while the run goes on."""

import time
from collections.abc import Callable
from pathlib import Path

from helpers.run import rows

from ddaepp_jax.training.checkpoint import steps_of

EVERY = 20  # steps between two checkpoints
LOGGED = 10  # steps between two rows of metrics
SECONDS = 900  # after which a test gives up

CONFIG = """
from pathlib import Path
from ddaepp_jax import config

def get_config():
    tiny = config.get_config("tiny")
    tiny.train.steps = int(Path(__file__).with_name("steps").read_text())
    tiny.train.checkpoint_every, tiny.train.log_every = {every}, {logged}
    tiny.optimizer.schedule = "constant"  # The length may change.
    for name in tiny.evals:
        tiny.evals[name].every = 0
    return tiny
"""


class Launched:
    """A run of a config file in a directory; it has no end until ``end_soon`` is called."""

    def __init__(self, root: Path) -> None:
        self.config, self.workdir = root / "tiny.py", root / "run"
        self.config.write_text(CONFIG.format(every=EVERY, logged=LOGGED))
        (root / "steps").write_text(str(10**6))

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints."""
        return steps_of(self.workdir / "checkpoints")

    def wait(self, running: Callable[[], bool]) -> None:
        """Waits for a checkpoint; ``running`` says whether there can still be one."""
        deadline = time.monotonic() + SECONDS
        while not self.steps():
            assert running() and time.monotonic() < deadline
            time.sleep(0.1)

    def end_soon(self) -> int:
        """Sets the length for the next start; returns it."""
        length = max(self.steps()) // EVERY * EVERY + 2 * EVERY
        (self.config.parent / "steps").write_text(str(length))
        return length

    def check(self, length: int) -> None:
        """Checks that the run has all its steps, and that its metrics have no gap."""
        assert max(self.steps()) == length
        logged = [row["step"] for row in rows(self.workdir) if "loss" in row]
        assert logged == list(range(LOGGED, length + 1, LOGGED))
