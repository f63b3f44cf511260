"""The steps at which training evaluates, saves and logs, and at which dispatches end."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

from PIL import Image

from ddaepp_jax.training.clock import next_stop
from ddaepp_jax.training.step import TrainState

# A state -> values by name: numbers go to the metrics, pictures to files.
Evaluator = Callable[[TrainState], dict[str, float | Image.Image]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A measurement in training.

    Attributes:
      every: steps from one measurement to the next.
      measure: measures a state.
      best: name of the value that ranks checkpoints; "": no value does.
    """

    every: int
    measure: Evaluator
    best: str = ""


class Due(NamedTuple):
    """What is due after a step."""

    evaluations: Mapping[str, Evaluation]
    checkpoint: bool
    snapshot: bool
    log: bool

    @property
    def pauses(self) -> bool:
        """Whether training pauses; it first reads the metrics and checks that they are finite."""
        return bool(self.evaluations) or self.checkpoint or self.snapshot


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When things happen, in steps; a period of 0 is never due.

    Attributes:
      total: steps of the whole run.
      dispatch: most steps of one dispatch.
      log_every, checkpoint_every, snapshot_every: periods.
      batch_size: images of one step.
      evaluations: evaluations by name.
      profile_start, profile_steps: first step of the profiler's trace, and its length.
    """

    total: int
    dispatch: int
    log_every: int
    checkpoint_every: int
    batch_size: int
    evaluations: Mapping[str, Evaluation]
    snapshot_every: int = 0
    profile_start: int = 0
    profile_steps: int = 0

    def due(self, step: int) -> Due:
        """Returns what is due after ``step`` steps; all with a period are due at the end."""
        due = lambda period: period > 0 and (step % period == 0 or step == self.total)
        return Due(
            {
                name: evaluation
                for name, evaluation in self.evaluations.items()
                if due(evaluation.every)
            },
            checkpoint=due(self.checkpoint_every),
            snapshot=due(self.snapshot_every),
            log=due(self.log_every),
        )

    def stop(self, step: int) -> int:
        """Returns the step at which the dispatch that starts at ``step`` ends."""
        periods = [self.log_every, self.checkpoint_every, self.snapshot_every]
        periods += [evaluation.every for evaluation in self.evaluations.values()]
        stop = next_stop(step, self.total, self.dispatch, periods)
        if self.profile_steps:
            edges = (self.profile_start, self.profile_start + self.profile_steps)
            stop = min([stop, *(edge for edge in edges if edge > step)])
        return stop
