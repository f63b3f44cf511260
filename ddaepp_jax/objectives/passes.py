"""What an objective asks of the network."""

import dataclasses
from collections import OrderedDict

from jax import Array


@dataclasses.dataclass(frozen=True)
class Pass:
    """One pass through a network, by the name under which an objective returns it.

    Objectives that ask for a pass of the same name ask for the same pass, and the step runs it once: a name determines
    its draws (they come from the step's rng, folded with the name).

    Attributes:
      view: (B, H, W, C) clean images in [-1, 1].
      noise: as ``view``, standard normal.
      level: (B,) in the process's unit.
      label: (B,) int, the null class where dropped; None where the network takes no labels.
      augment_label: (B, D) what was done to the view, for the network to know; None: nothing.
      capture: names of the features that the objective reads.
    """

    view: Array
    noise: Array
    level: Array
    label: Array | None = None
    augment_label: Array | None = None
    capture: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Result:
    """A pass and what the network made of it: ``out`` (B, H, W, C) and the captured features."""

    given: Pass
    out: Array
    features: OrderedDict[str, Array]
