"""Passes through the network that objectives request, and their results."""

import dataclasses
from collections import OrderedDict

from jax import Array


@dataclasses.dataclass(frozen=True)
class Pass:
    """One pass through the network; an objective returns it under a name.

    The name determines the random draws, which come from the step's rng folded with the name.
    Objectives that request a pass of the same name therefore request the same pass, and the step
    runs it once for all of them.

    Attributes:
      x0: (B, H, W, C) clean images in [-1, 1].
      noise: standard normal, in the shape of ``x0``.
      level: (B,) noise levels in the process's unit.
      label: (B,) int, the null class where the label is dropped; None where the network takes no
        labels.
      augment_label: (B, D) parameters of the images' augmentation, as a condition of the network;
        None: no such condition.
      capture: names of the features that the objective reads.
      denoises: whether the objective reads ``out``; if not, the pass stops after the last block
        that ``capture`` needs.
      teacher: name of the objective whose teacher runs the pass, without dropout and gradient; "":
        the student runs it.
    """

    x0: Array
    noise: Array
    level: Array
    label: Array | None = None
    augment_label: Array | None = None
    capture: tuple[str, ...] = ()
    denoises: bool = True
    teacher: str = ""


def merge(first: Pass, second: Pass) -> Pass:
    """Merges two requests of the same name into one pass that serves both."""
    capture = tuple(dict.fromkeys(first.capture + second.capture))
    return dataclasses.replace(first, capture=capture, denoises=first.denoises or second.denoises)


@dataclasses.dataclass(frozen=True)
class Result:
    """The outputs of a pass.

    Attributes:
      request: the pass.
      out: (B, H, W, C); None where no objective reads it.
      features: the captured features by name.
    """

    request: Pass
    out: Array | None
    features: OrderedDict[str, Array]
