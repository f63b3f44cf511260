"""A panel of curves on a run's page, as an evaluator declares it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Panel:
    """One plot, with a curve for each metric whose whole name matches a pattern.

    Attributes:
      title: the panel's title.
      metrics: a regular expression that matches whole names of metrics.
      ylabel: label of the vertical axis.
      log: whether the vertical axis is logarithmic if all values are positive.
      by_level: whether the horizontal axis is the noise level, the number that ends each metric's
        name, instead of the step. The page of one run shows three of its evaluations, a comparison
        the newest of each run.
      alone: whether the page of one run shows the panel.
      together: whether a comparison of several runs shows it.
    """

    title: str
    metrics: str
    ylabel: str
    log: bool = False
    by_level: bool = False
    alone: bool = True
    together: bool = True
