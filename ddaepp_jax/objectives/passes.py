"""What an objective asks of the network."""

import dataclasses
from collections import OrderedDict

from jax import Array


@dataclasses.dataclass(frozen=True)
class Pass:
    """One pass through a network, by the name under which an objective returns it.

    Objectives that ask for a pass of the same name ask for the same pass, and the step runs it
    once, for all that any of them reads: a name determines its draws (they come from the step's
      rng, folded with the name).

    Attributes:
      view: (B, H, W, C) clean images in [-1, 1].
      noise: as ``view``, standard normal.
      level: (B,) in the process's unit.
      label: (B,) int, the null class where dropped; None where the network takes no labels.
      augment_label: (B, D) what was done to the view, for the network to know; None: nothing.
      capture: names of the features that the objective reads.
      denoises: the objective reads ``out``; otherwise the pass stops after the last block that
        ``capture`` needs.
      teacher: the objective whose teacher runs the pass, without dropout and without gradient; "":
        the student does.
    """

    view: Array
    noise: Array
    level: Array
    label: Array | None = None
    augment_label: Array | None = None
    capture: tuple[str, ...] = ()
    denoises: bool = True
    teacher: str = ""


def united(first: Pass, second: Pass) -> Pass:
    """One pass for two objectives that ask for the same."""
    capture = tuple(dict.fromkeys(first.capture + second.capture))
    return dataclasses.replace(first, capture=capture, denoises=first.denoises or second.denoises)


@dataclasses.dataclass(frozen=True)
class Result:
    """A pass and what the network made of it: ``out`` (B, H, W, C), None where it was not asked
    for, and features.
    """

    given: Pass
    out: Array | None
    features: OrderedDict[str, Array]
