"""A table of finished scores, from the content of their JSON, without JAX."""

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate


def table(results: Mapping[str, Any]) -> str:
    """Returns the scores by their full names, with their spread, for a terminal.

    Args:
      results: the content of a file of scores: "metrics", "rows", "mean" and "std".
    """
    mean = results["mean"]
    names = [name for name in mean if not name.endswith("_std")]
    lines = []
    for (metric, value), name in zip(results["metrics"].items(), names, strict=True):
        note = ""
        if name in results["std"]:
            note = f"± {results['std'][name]:.4g} over {len(results['rows'])} seeds"
        elif f"{name}_std" in mean:
            note = f"± {mean[f'{name}_std']:.4g} within the set"
        lines.append([metric, f"{value:.4f}", note])
    return tabulate(lines, tablefmt="plain", disable_numparse=True)
