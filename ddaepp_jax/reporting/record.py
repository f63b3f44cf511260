"""The contents of a run directory, as the page shows them."""

import dataclasses
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddaepp_jax.reporting.checkpoints import Checkpoint
from ddaepp_jax.reporting.panels import Panel
from ddaepp_jax.reporting.plots import Series

OBJECTIVES = "[^/]+/loss"  # metrics of the objectives' own losses, before their weights
RATE = "images_per_second_per_device"


@dataclasses.dataclass(frozen=True)
class Record:
    """The contents of a run directory.

    Attributes:
      path: the run directory.
      name: the directory's name, with as many of its parents as distinguish it from other runs.
      config: the config, a mapping of groups to mappings of fields. Lists stand for tuples.
      defaults: the config's defaults in the version that trained the run, or None if the directory
        does not record them.
      panels: the panels of curves that the run's evaluators declare.
      version: the software's versions, or "".
      rows: rows of metrics, each with its "step".
      checkpoints: the checkpoints by step; None where their metadata cannot be read.
      grids: PNG files that training drew, by step.
      drawn: PNG files that the program ``sample`` drew, by name.
      probes: results of ``linear_probe`` by name, the most accurate first; those chosen on held-out
        images precede all others.
      scores: results of ``fid`` by name, the newest step first, and at a step the most images.
      left_out: a line for each file that could not be read, in whole or in part: the file, the
        reason and the mend.
    """

    path: Path
    name: str
    config: Mapping[str, Any]
    defaults: Mapping[str, Any] | None
    panels: tuple[Panel, ...]
    version: str
    rows: list[dict[str, float]]
    checkpoints: dict[int, Checkpoint | None]
    grids: dict[int, bytes]
    drawn: dict[str, bytes]
    probes: dict[str, dict[str, Any]]
    scores: dict[str, dict[str, Any]]
    left_out: tuple[str, ...]

    def metrics(self, pattern: str) -> dict[str, Series]:
        """Returns steps and values of the metrics whose whole name matches a pattern."""
        matches = re.compile(pattern).fullmatch
        series: dict[str, Series] = {}
        for row in self.rows:
            for name in filter(matches, row):
                steps, values = series.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(row[name])
        return series

    def is_summed(self) -> bool:
        """Whether the training loss is a weighted sum of several objectives."""
        return len(self.metrics(OBJECTIVES)) > 1

    def by_level(self, pattern: str) -> dict[int, Series]:
        """Returns noise levels and values of the matching metrics by step, the newest step last.

        A metric's noise level is the number that ends its name; one without a number is left out.
        """
        evaluations: dict[int, Series] = {}
        for name, (steps, values) in self.metrics(pattern).items():
            number = re.search(r"([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?$", name)
            if number is None:
                continue
            level = float(number[0])
            for step, value in zip(steps, values, strict=True):
                levels, measured = evaluations.setdefault(step, ([], []))
                levels.append(level)
                measured.append(value)
        return dict(sorted(evaluations.items()))

    def command(self, program: str) -> str:
        """Returns the command line of a program of this package for the run."""
        return f"python -m ddaepp_jax.{program} --workdir={shlex.quote(str(self.path))}"
