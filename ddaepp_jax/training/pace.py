"""How many steps the train loop takes before it looks for a signal.

Several processes must dispatch the same steps and save after the same step. So process 0 decides
for all, and the others read its decision: once for all steps of some seconds, by a note, which
leaves the devices alone.
"""

import itertools
import json
import time

from ddaepp_jax.base import board
from ddaepp_jax.base.dispatch import IN_FLIGHT
from ddaepp_jax.base.stop import Stop

LOOK_SECONDS = 2.0  # from one look to the next, unless a step takes longer

_looks = itertools.count()  # numbers the notes; every process counts the same


class Pace:
    """Sets the steps at which the loop looks for a signal, about every ``LOOK_SECONDS``.

    It starts with one step. The number of steps in a dispatch changes no number of the run.
    """

    def __init__(self, step: int) -> None:
        self._steps = 1
        self.restart(step)

    def restart(self, step: int) -> None:
        """Begins to measure at ``step``, when all steps before have finished."""
        self._finished = step
        self._measured = time.perf_counter(), step

    def finished(self, step: int) -> None:
        """Takes note that the steps up to ``step`` have finished."""
        self._finished = step

    def look(self, step: int, signals: Stop) -> tuple[int, int]:
        """Looks for a signal; all processes have to call it at the same steps.

        Returns:
          The step of the next look, and the number of a signal that asked any process to stop; 0 if
          none did.
        """
        if not board.joined():
            return step + self._measure(), signals.requested
        number = next(_looks)
        name = f"look/{number}"
        if board.process():
            following, signal = json.loads(board.wait_for(name))
            return following, signal
        decision = step + self._measure(), signals.anywhere()
        board.write(name, json.dumps(decision))
        # A dispatch that has finished was read about in all processes, as they compute it together.
        board.remove(f"look/{number - IN_FLIGHT - 1}")
        return decision

    def _measure(self) -> int:
        """Returns the number of steps that take ``LOOK_SECONDS``, by those finished last."""
        now = time.perf_counter()
        time_before, finished_before = self._measured
        # In a shorter time, what finished may have waited for what was dispatched before.
        if now - time_before > LOOK_SECONDS / 2 and self._finished > finished_before:
            rate = (self._finished - finished_before) / (now - time_before)
            self._steps = max(1, int(rate * LOOK_SECONDS))
            self._measured = now, self._finished
        return self._steps
