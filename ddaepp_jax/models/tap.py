"""The features that a pass through a backbone returns, and the block where the pass stops."""

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from jax import Array

BOTTLENECK = "bottleneck"  # name of the feature; the network's field ``bottleneck`` names its block


@dataclasses.dataclass(frozen=True)
class Tap:
    """Reads features from the blocks of one pass.

    Attributes:
      names: names of the network's blocks, in order.
      bottleneck: name of the block whose pooled output is the feature ``bottleneck``.
      capture: names of the features to return, in this order; None: all.
      stop: whether the pass ends after the last block that ``capture`` needs.

    Raises:
      ValueError: a name is unknown, or ``stop`` is set without ``capture``.
    """

    names: Sequence[str]
    bottleneck: str
    capture: Sequence[str] | None = None
    stop: bool = False

    def __post_init__(self) -> None:
        if self.bottleneck not in self.names:
            blocks = ", ".join(self.names)
            raise ValueError(f"bottleneck: no block {self.bottleneck!r}; the blocks are {blocks}")
        if self.stop and self.capture is None:
            raise ValueError(
                "stop: set without capture; give capture, the names of the features to return"
            )
        for name in self.captured:
            if name not in (*self.names, BOTTLENECK):
                features = ", ".join((*self.names, BOTTLENECK))
                raise ValueError(f"capture: no feature {name!r}; the features are {features}")

    @property
    def captured(self) -> tuple[str, ...]:
        """Names of the features that the pass returns."""
        return (*self.names, BOTTLENECK) if self.capture is None else tuple(self.capture)

    @property
    def blocks(self) -> Sequence[str]:
        """Names of the blocks that the pass runs."""
        if not self.stop:
            return self.names
        needed = [self.bottleneck if name == BOTTLENECK else name for name in self.captured]
        return self.names[: max((self.names.index(name) + 1 for name in needed), default=0)]

    @property
    def conditions(self) -> bool:
        """Whether the pass runs layers after the bottleneck, which self-conditioning reaches."""
        return not self.stop or self.bottleneck in self.blocks[:-1]

    def features(self, outputs: Mapping[str, Array]) -> OrderedDict[str, Array]:
        """Returns the captured features out of all ``outputs``; XLA prunes the others."""
        return OrderedDict((name, outputs[name]) for name in self.captured)
