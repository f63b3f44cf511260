"""A finished probe, as its JSON tells it: a grid, figures, a table. Needs no accelerator, and none of its libraries."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tabulate import tabulate

from ddaepp_jax.evaluation import plots

PIXELS = "pixels"  # the name under which raw pixels stand among layers


def grid(found: Mapping[str, Any], value: str) -> tuple[list[str], list[float], np.ndarray]:
    """Layers, noise levels, and the column ``value`` of the rows as (layers, levels)."""
    layers, levels = found["settings"]["layers"], found["levels"]
    cells = {(row["layer"], row["noise_level"]): row[value] for row in found["rows"]}
    return layers, levels, np.array([[cells[layer, level] for level in levels] for layer in layers])


def figures(found: Mapping[str, Any]) -> dict[str, Figure]:
    """{"grid", "layers"}: the heat map and the layer-wise curve of a finished probe."""
    best = found["best"]
    layers, levels, linear = grid(found, "linear_test")
    names = [f"{level:g}" for level in levels]
    mark = layers.index(best["layer"]), levels.index(best["noise_level"])
    title = f"linear probe, test accuracy, {found['protocol']}"
    lines = {f"linear, level {name}": linear[:, j] for j, name in enumerate(names)}
    (pixels,) = (row for row in found["rows"] if row["layer"] == PIXELS)
    floors = {"pixels, linear": pixels["linear_test"]}
    if "knn_test" in best:
        k, neighbours = found["settings"]["knn"], grid(found, "knn_test")[2]
        lines[f"kNN-{k}, level {best['noise_level']:g}"] = neighbours[:, mark[1]]
        floors[f"pixels, kNN-{k}"] = pixels["knn_test"]
    return {
        "grid": plots.heat_map(linear, layers, names, title, mark),
        "layers": plots.layer_curve(lines, layers, floors),
    }


def table(found: Mapping[str, Any]) -> str:
    """Test accuracies of the layers at the chosen noise level, and of the pixels, for a terminal."""
    best, k = found["best"], found["settings"]["knn"]
    shown = [row for row in found["rows"] if row["noise_level"] in (None, best["noise_level"])]
    columns = {"linear_held_out": "linear, held out", "linear_test": "linear, test", "knn_test": f"{k}-NN, test"}
    columns = {name: title for name, title in columns.items() if name in best}
    lines = [[row["layer"] + " *" * (row["layer"] == best["layer"]), *(row[name] for name in columns)] for row in shown]
    return tabulate(lines, [f"level {best['noise_level']:g}", *columns.values()], floatfmt=".1f")
