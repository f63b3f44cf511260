"""A panel of curves on a report's page, as an evaluator declares it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Panel:
    """Curves of the metrics whose whole name a pattern matches.

    Attributes:
      title: the panel's title.
      metrics: a regular expression for whole names of metrics.
      ylabel: label of the vertical axis.
      log: whether the vertical axis is logarithmic, where all values are positive.
      by_level: whether the horizontal axis is the noise level, which ends each metric's name, and
        not the step. One run is drawn at three of its evaluations, several at their newest.
      alone: whether the page of one run shows it.
      together: whether the page of several runs shows it.
    """

    title: str
    metrics: str
    ylabel: str
    log: bool = False
    by_level: bool = False
    alone: bool = True
    together: bool = True
