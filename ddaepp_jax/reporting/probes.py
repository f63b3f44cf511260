"""Tables and figures of a finished probe, from the content of its JSON, without JAX."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tabulate import tabulate

from ddaepp_jax.probing.diagnostics import PIXELS, collapse
from ddaepp_jax.reporting import plots
from ddaepp_jax.reporting.plots import Line

Probe = Mapping[str, Any]  # what ``ddaepp_jax.probing.probe.probe`` returns and writes


def _pixels(probe: Probe) -> dict[str, Any]:
    """Returns the row of raw pixels."""
    return next(row for row in probe["rows"] if row["layer"] == PIXELS)


def _inner(probe: Probe) -> list[dict[str, Any]]:
    """Returns the rows of the network's layers."""
    return [row for row in probe["rows"] if row["layer"] != PIXELS]


def grid(probe: Probe, value: str) -> tuple[list[str], list[float], np.ndarray]:
    """Returns layers, noise levels, and a column of the rows as an array (layers, levels)."""
    layers = probe["settings"]["layers"]
    levels = probe["levels"]
    cells = {(row["layer"], row["noise_level"]): row[value] for row in probe["rows"]}
    return layers, levels, np.array([[cells[layer, level] for level in levels] for layer in layers])


def curves(probe: Probe) -> dict[str, Line]:
    """Returns test accuracies over the layers, by the line's name.

    There is a line of the linear heads for each noise level, and one of the neighbours at the
    chosen level. The chosen level has the colour of what is chosen, and of the others, more noise
    is darker.
    """
    best = probe["best"]
    _, levels, linear = grid(probe, "linear_test")
    chosen = levels.index(best["noise_level"])
    colours = plots.shades(len(levels))
    colours[chosen] = plots.CHOSEN
    lines = {
        f"linear, level {level:g}{', chosen' * (j == chosen)}": Line(linear[:, j], colours[j])
        for j, level in enumerate(levels)
    }
    if "knn_test" in best:
        _, _, knn = grid(probe, "knn_test")
        name = f"kNN-{probe['settings']['knn']}, at the chosen level"
        lines[name] = Line(knn[:, chosen], plots.CHOSEN, "--")
    return lines


def figures(probe: Probe) -> dict[str, Figure]:
    """Draws "grid", a heat map of layers and noise levels, and "layers", curves over the layers."""
    best = probe["best"]
    layers, levels, linear = grid(probe, "linear_test")
    pixels = _pixels(probe)
    floors = {"pixels, linear": pixels["linear_test"]}
    if "knn_test" in best:
        floors[f"pixels, kNN-{probe['settings']['knn']}"] = pixels["knn_test"]
    held_out = best["chosen_by"] == "linear_held_out"
    framed = "chosen by accuracy on held-out images" if held_out else "chosen, the highest"
    title = f"linear probe, test accuracy, {probe['protocol']}\nframed: {framed}"
    mark = layers.index(best["layer"]), levels.index(best["noise_level"])
    names = [f"{level:g}" for level in levels]
    return {
        "grid": plots.heat_map(linear, layers, names, title, mark),
        "layers": plots.layer_curve(curves(probe), layers, floors),
    }


def columns(probe: Probe) -> dict[str, tuple[str, str]]:
    """Returns title and format of a table's columns by name; older probes lack some of them."""
    titles = {
        "linear_held_out": ("linear, held out", ".1f"),
        "linear_test": ("linear, test", ".1f"),
        "knn_test": (f"{probe['settings']['knn']}-NN, test", ".1f"),
        "alignment": ("alignment", ".3f"),
        "uniformity": ("uniformity", ".2f"),
        "effective_rank": ("effective rank", ".1f"),
        "spread": ("spread", ".3f"),
    }
    return {name: column for name, column in titles.items() if name in probe["best"]}


def at_best(probe: Probe) -> list[dict[str, Any]]:
    """Returns the rows of the pixels and of the chosen noise level."""
    levels = (None, probe["best"]["noise_level"])
    return [row for row in probe["rows"] if row["noise_level"] in levels]


def collapsed(probe: Probe) -> list[str]:
    """Returns a line for each layer and noise level whose features have collapsed."""
    return [
        f"{row['layer']}, level {row['noise_level']:g}: {text}"
        for row in _inner(probe)
        if "spread" in row and (text := collapse(row))
    ]


def table(probe: Probe) -> str:
    """Returns a table of accuracies and diagnostics at the chosen noise level, for a terminal.

    There is a line for each layer, and one for the pixels. A star marks the chosen layer. The lines
    beneath name the features that have collapsed, at any level.
    """
    best = probe["best"]
    shown = columns(probe)
    lines = []
    for row in at_best(probe):
        name = f"{row['layer']} *" if row["layer"] == best["layer"] else row["layer"]
        lines.append([name, *(row[column] for column in shown)])
    titles = [textwrap.fill(title, 10) for title, _ in shown.values()]
    formats = ["", *(form for _, form in shown.values())]
    text = tabulate(lines, [f"level {best['noise_level']:g}", *titles], floatfmt=formats)
    return "\n".join([text, *(f"warning: {line}" for line in collapsed(probe))])


def best_of_both(probe: Probe) -> dict[str, Any]:
    """Returns the row whose linear and nearest-neighbour accuracies are best on average.

    The images are those on which "best" was chosen. Without neighbours, "best" is returned.
    """
    best = probe["best"]
    if "knn_test" not in best:
        return best
    linear = best["chosen_by"]
    knn = linear.replace("linear", "knn")
    return max(_inner(probe), key=lambda row: row[linear] + row[knn])


def summary(probe: Probe) -> str:
    """Returns a table of the chosen features' test accuracies beside those of raw pixels.

    There is a line for each kind of head.
    """
    pixels = _pixels(probe)
    best = best_of_both(probe)
    titles = {
        "linear_test": "linear heads",
        "knn_test": f"{probe['settings']['knn']} nearest neighbours",
    }
    lines = [[title, best[name], pixels[name]] for name, title in titles.items() if name in best]
    place = f"{best['layer']}, level {best['noise_level']:g}"
    return tabulate(lines, ["test split, %", place, "raw pixels"], floatfmt=".1f")
