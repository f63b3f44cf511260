"""When things happen in training: evaluations, checkpoints, snapshots, logs, and where a dispatch
ends.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

from PIL import Image

from ddaepp_jax.training.clock import next_stop
from ddaepp_jax.training.step import TrainState

# step's state -> values by name: numbers go to the metrics, pictures to files.
Evaluator = Callable[[TrainState], dict[str, float | Image.Image]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Something measured every ``every`` steps.

    Attributes:
      best: name of the value that ranks checkpoints; "": none does.
    """

    every: int
    measure: Evaluator
    best: str = ""


class Due(NamedTuple):
    """What happens after a step."""

    evaluations: Mapping[str, Evaluation]
    checkpoint: bool
    snapshot: bool
    log: bool

    @property
    def pauses(self) -> bool:
        """Whether something happens that takes its time, and wants the metrics so far to be
        good.
        """
        return bool(self.evaluations) or self.checkpoint or self.snapshot


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When things happen, in steps."""

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
        """What happens after ``step`` steps; everything does at the end."""
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
        """Where the dispatch that starts after ``step`` steps ends."""
        every = (self.log_every, self.checkpoint_every, self.snapshot_every)
        periods = (*every, *(e.every for e in self.evaluations.values()))
        stop = next_stop(step, self.total, self.dispatch, periods)
        if self.profile_steps:
            edges = (self.profile_start, self.profile_start + self.profile_steps)
            stop = min([stop, *(edge for edge in edges if edge > step)])
        return stop
