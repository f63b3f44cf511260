"""Figures of metrics and probes, as matplotlib makes them; a program saves them or a report inlines
them.
"""

import io
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot: no window system, no global state
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, LogFormatter, MaxNLocator

WIDTH = 5.0  # inches: a figure that stays readable across a phone
PANEL = 3.7, 2.5  # inches, of one among many on a page
COLOURS = ("#1f5fa8", "#d1603d", "#3b8f5a", "#8256a8", "#a8862a", "#4a9db5", "#b5487c", "#666666")
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "figure.constrained_layout.use": True,
}

Series = tuple[Sequence[float], Sequence[float]]  # x and y


@rc_context(STYLE | {"axes.grid": False})
def heat_map(
    table: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    mark: tuple[int, int],
) -> Figure:
    """Percentages (R, C) with names of rows and columns; the cell ``mark`` is framed."""
    figure = Figure(figsize=(WIDTH, 0.9 + 0.3 * len(rows)))
    axes = figure.subplots()
    shown = axes.imshow(table, cmap="viridis", aspect="auto")
    middle = (np.nanmin(table) + np.nanmax(table)) / 2
    for (i, j), value in np.ndenumerate(table):
        axes.text(
            j,
            i,
            f"{value:.1f}",
            ha="center",
            va="center",
            color="white" if value < middle else "black",
        )
    axes.add_patch(
        Rectangle((mark[1] - 0.5, mark[0] - 0.5), 1, 1, fill=False, ec=COLOURS[1], lw=2.5)
    )
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("noise level")
    figure.colorbar(shown, ax=axes, fraction=0.05, pad=0.02, label="%")
    return figure


@rc_context(STYLE)
def layer_curve(
    lines: Mapping[str, Sequence[float]], layers: Sequence[str], floors: Mapping[str, float]
) -> Figure:
    """Accuracies in percent by layer, a line each name (kNN's dashed); ``floors`` are levels to
    beat.
    """
    figure = Figure(figsize=(WIDTH, 3.6))
    axes = figure.subplots()
    for (name, values), colour in zip(lines.items(), itertools.cycle(COLOURS)):
        style = "--" if name.startswith("kNN") else "-"
        axes.plot(layers, values, style, marker="o", ms=3.5, lw=1.5, color=colour, label=name)
    for (name, value), style in zip(floors.items(), (":", "-."), strict=False):
        axes.axhline(value, color="#666666", lw=1, ls=style, label=name)
    axes.set_ylabel("test accuracy, %")
    axes.tick_params(axis="x", rotation=60 if len(layers) > 6 else 0)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    return figure


class _Plain(LogFormatter):
    """A logarithmic axis's own choice of labels, as 0.2 where it would write 2 × 10⁻¹."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


@rc_context(STYLE)
def panel(series: Mapping[str, Series], xlabel: str, ylabel: str, log: bool = False) -> Figure:
    """Lines by name, small; with ``log``, logarithmic in y where all values are positive; tens of
    thousands as 10k.
    """
    figure = Figure(figsize=PANEL)
    axes = figure.subplots()
    for (name, (x, y)), colour in zip(series.items(), itertools.cycle(COLOURS)):
        axes.plot(
            x, y, color=colour, lw=1.5, marker="o" if len(x) < 12 else None, ms=3.5, label=name
        )
    if log and all(np.min(y) > 0 for _, y in series.values()):
        axes.set_yscale("log")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if len(series) > 1:
        axes.legend(fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    if axes.get_xlim()[1] >= 1e4:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if axes.get_yscale() == "log":
        plain_log(axes)
    return figure


def plain_log(axes: Axes) -> None:
    """Grid and labels of a logarithmic y that may span less than a decade."""
    axes.grid(which="minor", axis="y", lw=0.3)
    axes.yaxis.set_major_formatter(_Plain())
    axes.yaxis.set_minor_formatter(_Plain(minor_thresholds=(2, 0.5)))


@rc_context(STYLE)
def layer_curves(
    lines: Mapping[str, tuple[Sequence[str], Sequence[float]]], floors: Sequence[float]
) -> Figure:
    """Accuracies in percent by layer, {name: (layers, values)}, of networks that need not have the
    same layers.
    """
    layers = sorted((layers for layers, _ in lines.values()), key=len, reverse=True)
    order = list(dict.fromkeys(itertools.chain(*layers)))
    figure = Figure(figsize=(4.0, 3.0))
    axes = figure.subplots()
    for (name, (layers, values)), colour in zip(lines.items(), itertools.cycle(COLOURS)):
        axes.plot(
            [order.index(layer) for layer in layers],
            values,
            marker="o",
            ms=3.5,
            lw=1.5,
            color=colour,
            label=name,
        )
    for floor in floors:
        axes.axhline(floor, color="#666666", lw=1, ls=":")
    axes.set_xticks(range(len(order)), order, rotation=60 if len(order) > 6 else 0)
    axes.set_ylabel("test accuracy, %")
    axes.legend(fontsize=8)
    return figure


def restyle(figure: Figure, styles: Mapping[str, tuple[str, str]]) -> None:
    """Lines by their names in the (colour, dashes) of a legend that stands elsewhere; the figure's
    own goes.
    """
    (axes,) = figure.axes
    for line in axes.lines:
        if line.get_label() in styles:
            colour, dashes = styles[line.get_label()]
            line.set(color=colour, linestyle=dashes)
    if axes.get_legend():
        axes.get_legend().remove()


@rc_context(STYLE | {"svg.hashsalt": "ddaepp"})  # the same figure is the same text
def svg(figure: Figure) -> str:
    """A figure as the text of an SVG."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
