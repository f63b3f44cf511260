"""A finished probe, as its JSON tells it: a grid, figures, a table. Needs no accelerator, and none
of its libraries.
"""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tabulate import tabulate

from ddaepp_jax.probing.diagnostics import PIXELS, collapse
from ddaepp_jax.reporting import plots


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


def columns(found: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """{name: (title, format)} of the columns that a table shows, as far as the probe has them."""
    shown = {
        "linear_held_out": ("linear, held out", ".1f"),
        "linear_test": ("linear, test", ".1f"),
        "knn_test": (f"{found['settings']['knn']}-NN, test", ".1f"),
        "alignment": ("alignment", ".3f"),
        "uniformity": ("uniformity", ".2f"),
        "effective_rank": ("effective rank", ".1f"),
        "spread": ("spread", ".3f"),
    }
    return {name: how for name, how in shown.items() if name in found["best"]}


def at_best(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the pixels and of the chosen noise level."""
    return [
        row for row in found["rows"] if row["noise_level"] in (None, found["best"]["noise_level"])
    ]


def collapsed(found: Mapping[str, Any]) -> list[str]:
    """A line for each layer and noise level whose features have collapsed."""
    inner = [row for row in found["rows"] if row["layer"] != PIXELS and "spread" in row]
    return [
        f"{row['layer']}, level {row['noise_level']:g}: {text}"
        for row in inner
        if (text := collapse(row))
    ]


def table(found: Mapping[str, Any]) -> str:
    """Accuracies and diagnostics of the layers at the chosen noise level, and of the pixels, for a
    terminal.

    A star marks the chosen layer; beneath, a line each names the features that have collapsed, at
    any level.
    """
    best, shown = found["best"], columns(found)
    lines = [
        [row["layer"] + " *" * (row["layer"] == best["layer"]), *(row[name] for name in shown)]
        for row in at_best(found)
    ]
    titles = [textwrap.fill(title, 10) for title, _ in shown.values()]
    formats = ["", *(form for _, form in shown.values())]
    text = tabulate(lines, [f"level {best['noise_level']:g}", *titles], floatfmt=formats)
    return "\n".join([text, *(f"warning: {line}" for line in collapsed(found))])


def best_of_both(found: Mapping[str, Any]) -> dict[str, Any]:
    """The layer and noise level whose linear and nearest-neighbour accuracies are best on average.

    They are compared on the images on which linear heads are ("best"). Without neighbours it is the
    linear heads' best.
    """
    best = found["best"]
    if "knn_test" not in best:
        return best
    by = best["chosen_by"]
    inner = (row for row in found["rows"] if row["layer"] != PIXELS)
    return max(inner, key=lambda row: row[by] + row[by.replace("linear", "knn")])


def summary(found: Mapping[str, Any]) -> str:
    """The chosen features' accuracies on the test split beside those of raw pixels, a line for each
    kind of head.
    """
    (pixels,) = (row for row in found["rows"] if row["layer"] == PIXELS)
    best = best_of_both(found)
    titles = {
        "linear_test": "linear heads",
        "knn_test": f"{found['settings']['knn']} nearest neighbours",
    }
    lines = [[title, best[name], pixels[name]] for name, title in titles.items() if name in best]
    where = f"{best['layer']}, level {best['noise_level']:g}"
    return tabulate(lines, ["test split, %", where, "raw pixels"], floatfmt=".1f")
