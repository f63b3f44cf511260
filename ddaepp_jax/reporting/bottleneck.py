"""The result of a search for the bottleneck: a table for a terminal, and a picture."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tabulate import tabulate

from ddaepp_jax.reporting import plots
from ddaepp_jax.reporting.plots import COLOURS, STYLE

SMOOTH = 0.05  # fraction of a curve that a drawn point averages

Curves = Mapping[str, Mapping[int, Mapping[str, Any]]]  # block -> seed -> row of curves.jsonl


def table(decision: Mapping[str, Any]) -> str:
    """Returns the candidates in the network's order as a table.

    Args:
      decision: content of bottleneck.json.
    """
    headers = ["block", "loss", "± seeds", "gap to the lowest", "± seeds", "chance up to", ""]
    lines = [_line(decision, name, row) for name, row in decision["candidates"].items()]
    return tabulate(
        lines, headers, disable_numparse=True, colalign=("left", *["right"] * 5, "left")
    )


def _line(decision: Mapping[str, Any], name: str, row: Mapping[str, Any]) -> list[str]:
    if row["mean"] is None:
        return [name, "not finite", "", "", "", "", ""]
    losses = list(row["loss"].values())
    deviation = float(np.std(losses, ddof=1)) if len(losses) > 1 else None
    numbers = [row["mean"], deviation, row["gap"], row["spread"], _margin(row)]
    remark = "ties with it" if name in decision["tied"] else ""
    if name == decision["best"]:
        numbers[2:] = [None, None, None]
        remark = "lowest"
    return [name, *("" if number is None else f"{number:.5f}" for number in numbers), remark]


def _margin(row: Mapping[str, Any]) -> float | None:
    """Returns the gap up to which a block ties with the best; None for one seed."""
    return row.get("margin", row["spread"])  # A search of an older version compared the spread.


@rc_context(STYLE)
def figure(curves: Curves, decision: Mapping[str, Any]) -> Figure:
    """Draws smoothed losses, their differences to the blocks' mean, and each block's final loss.

    Lines are means over seeds.
    """
    picture = Figure(figsize=(2.2 * plots.WIDTH, 3.6))
    left, middle, right = picture.subplots(1, 3)
    colours = _colours(list(curves))
    finite = {
        name: list(rows.values())
        for name, rows in curves.items()
        if decision["candidates"][name]["mean"] is not None
    }
    if finite:
        x = np.array(next(iter(finite.values()))[0]["stops"])
        lines = {
            name: np.array([_smoothed(row["loss"]) for row in rows])
            for name, rows in finite.items()
        }
        common = np.mean(list(lines.values()), axis=0)
        for name, values in lines.items():
            _band(left, x, values, colours[name], name)
            _band(middle, x, values - common, colours[name], name)
    left.set_yscale("log")
    plots.plain_log(left)
    for axes, title in (
        (left, "training loss"),
        (middle, "its difference to the mean of all blocks"),
    ):
        axes.set(xlabel="step")
        axes.set_title(title, fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    _final(right, decision, colours)
    picture.legend(
        *left.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=6
    )
    return picture


def _colours(names: Sequence[str]) -> dict[str, str]:
    """Returns a colour for each block; many blocks get colours of a scale in their order."""
    if len(names) <= len(COLOURS):
        return dict(zip(names, COLOURS, strict=False))
    return {
        name: to_hex(colormaps["viridis"](i / (len(names) - 1))) for i, name in enumerate(names)
    }


def _smoothed(loss: Sequence[float]) -> np.ndarray:
    """Returns a running mean of the same length; at the ends it averages fewer points."""
    window = np.ones(max(1, round(SMOOTH * len(loss))))
    return np.convolve(loss, window, "same") / np.convolve(np.ones(len(loss)), window, "same")


def _band(axes: Axes, x: np.ndarray, values: np.ndarray, colour: str, name: str) -> None:
    """Draws the mean over seeds of values (seeds, points), and their deviation as a band."""
    mean = values.mean(0)
    deviation = values.std(0, ddof=1) if len(values) > 1 else 0
    axes.plot(x, mean, color=colour, lw=1.3, label=name)
    axes.fill_between(x, mean - deviation, mean + deviation, color=colour, alpha=0.15, lw=0)


def _final(axes: Axes, decision: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    """Draws each block's mean loss over the last fifth, in the network's order.

    A bar is the gap to the lowest that chance explains; a block whose bar reaches the line of the
    lowest ties with it.
    """
    names = list(decision["candidates"])
    for i, (name, row) in enumerate(decision["candidates"].items()):
        if row["mean"] is None:
            axes.annotate(
                "not finite",
                (i, 0.5),
                xycoords=("data", "axes fraction"),
                rotation=90,
                ha="center",
                size=8,
            )
            continue
        bar = None if name == decision["best"] else _margin(row)
        axes.errorbar(i, row["mean"], bar, fmt="o", ms=5, capsize=3, color=colours[name])
    best = decision["candidates"][decision["best"]]["mean"]
    if best is not None:
        axes.axhline(best, color="#666666", lw=0.8, ls=":")
        place = names.index(decision["best"])
        text = "winner" if decision["winner"] == decision["best"] else "lowest, no winner"
        axes.plot(place, best, "o", ms=11, mfc="none", mec=plots.CHOSEN, mew=1.5)
        axes.annotate(
            text, (place, best), (0, -13), textcoords="offset points", ha="center", size=8
        )
    axes.margins(y=0.2)
    axes.set_xticks(range(len(names)), names, rotation=60 if len(names) > 4 else 0)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_title("final loss; a bar that reaches the line is chance", fontsize=9)
