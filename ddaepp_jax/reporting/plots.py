"""Matplotlib figures of metrics and probes, which programs save and reports embed."""

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure  # pyplot would need a window system and global state.
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, LogFormatter, MaxNLocator

WIDTH = 5.0  # inches; such a figure stays readable on a phone
PANEL = 3.7, 2.5  # width and height in inches of a figure among many on a page
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
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-7, 7),  # no factor of ten beside an axis
    "text.parse_math": False,  # Names of metrics are plain text.
    "svg.fonttype": "none",
    "figure.constrained_layout.use": True,
}

CHOSEN = COLOURS[1]  # the layer, the noise level and the block that were chosen
LONGEST = 60  # characters of a name in a legend

Series = tuple[Sequence[float], Sequence[float]]  # x and y


@rc_context(STYLE | {"axes.grid": False})
def heat_map(
    table: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    mark: tuple[int, int],
) -> Figure:
    """Draws a table of percentages.

    Args:
      table: (R, C) percentages.
      rows: R names.
      columns: C names, of noise levels.
      title: title of the figure.
      mark: row and column of the cell that is framed.
    """
    figure = Figure(figsize=(WIDTH, 0.9 + 0.3 * len(rows)))
    axes = figure.subplots()
    image = axes.imshow(table, cmap="viridis", aspect="auto")
    middle = (np.nanmin(table) + np.nanmax(table)) / 2
    for (i, j), value in np.ndenumerate(table):
        colour = "white" if value < middle else "black"
        axes.text(j, i, f"{value:.1f}", ha="center", va="center", color=colour)
    axes.add_patch(
        Rectangle(
            (mark[1] - 0.5, mark[0] - 0.5), 1, 1, fill=False, ec=CHOSEN, lw=2.5, clip_on=False
        )
    )
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("noise level")
    figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02, label="%")
    return figure


class Line(NamedTuple):
    """A line of a figure.

    Attributes:
      values: the y values.
      colour: its colour.
      dashes: its dashes, as Matplotlib writes them.
    """

    values: Sequence[float]
    colour: str
    dashes: str = "-"


def shades(number: int) -> list[str]:
    """Returns blues from light to dark, for what has an order."""
    return [to_hex(colour) for colour in colormaps["Blues"](np.linspace(0.4, 0.95, number))]


@rc_context(STYLE)
def layer_curve(
    lines: Mapping[str, Line], layers: Sequence[str], floors: Mapping[str, float]
) -> Figure:
    """Draws test accuracies in percent over the layers of a network.

    Args:
      lines: an accuracy for each layer, by the line's name.
      layers: names of the layers.
      floors: accuracies to beat by name, drawn as horizontal lines.
    """
    figure = Figure(figsize=(WIDTH, 3.6))
    axes = figure.subplots()
    for name, line in lines.items():
        axes.plot(
            layers,
            line.values,
            line.dashes,
            marker="o",
            ms=3.5,
            lw=1.5,
            color=line.colour,
            label=name,
        )
    for (name, value), style in zip(floors.items(), (":", "-."), strict=False):
        axes.axhline(value, color="#666666", lw=1, ls=style, label=name)
    axes.set_ylabel("test accuracy, %")
    axes.tick_params(axis="x", rotation=60 if len(layers) > 6 else 0)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    return figure


class _Plain(LogFormatter):
    """Labels of a logarithmic axis, written as 0.2 and not as 2 × 10⁻¹."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


@rc_context(STYLE)
def panel(
    series: Mapping[str, Series],
    xlabel: str,
    ylabel: str,
    log: bool = False,
    colours: Sequence[str] = COLOURS,
) -> Figure:
    """Draws a small figure of lines; x values from 10,000 on are written as 10k.

    Values that are not finite leave gaps.

    Args:
      series: x and y of each line by its name.
      xlabel: label of the x axis.
      ylabel: label of the y axis.
      log: whether the y axis is logarithmic if all values are positive.
      colours: colours of the lines, in turn.
    """
    figure = Figure(figsize=PANEL)
    axes = figure.subplots()
    drawn = {name: (x, _drawable(y)) for name, (x, y) in series.items()}
    for (name, (x, y)), colour in zip(drawn.items(), itertools.cycle(colours)):
        marker = "o" if len(x) < 12 else None
        axes.plot(x, y, color=colour, lw=1.5, marker=marker, ms=3.5, label=name)
    finite = np.concatenate([y[~np.isnan(y)] for _, y in drawn.values()])
    if not finite.size:
        axes.annotate("no finite value", (0.5, 0.5), xycoords="axes fraction", ha="center")
    elif log and finite.min() > 0:
        axes.set_yscale("log")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if len(series) > 1:
        lines = axes.get_lines()
        axes.legend(lines, [_shortened(line.get_label()) for line in lines], fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    if axes.get_xlim()[1] >= 1e4:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if axes.get_yscale() == "log":
        plain_log(axes)
    return figure


def _drawable(values: Sequence[float]) -> np.ndarray:
    """Returns values with NaN for what cannot be drawn; near the largest float, axes overflow."""
    values = np.array(values, np.float64)
    return np.where(np.abs(values) < 1e300, values, np.nan)


def _shortened(name: str) -> str:
    """Returns a name of at most ``LONGEST`` printable characters; the middle is left out."""
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    half = LONGEST // 2 - 1
    return name if len(name) <= LONGEST else f"{name[:half]}..{name[-half:]}"


def plain_log(axes: Axes) -> None:
    """Sets grid and labels of a logarithmic y axis that may span less than a decade."""
    axes.grid(which="minor", axis="y", lw=0.3)
    axes.yaxis.set_major_formatter(_Plain())
    axes.yaxis.set_minor_formatter(_Plain(minor_thresholds=(2, 0.5)))


@rc_context(STYLE)
def layer_curves(
    lines: Mapping[str, tuple[Sequence[str], Sequence[float]]], floors: Sequence[float]
) -> Figure:
    """Draws test accuracies in percent over the layers of several networks.

    Args:
      lines: layers and their accuracies by the network's name; networks may differ in layers.
      floors: accuracies to beat, drawn as horizontal lines.
    """
    longest_first = sorted((layers for layers, _ in lines.values()), key=len, reverse=True)
    order = list(dict.fromkeys(itertools.chain(*longest_first)))
    figure = Figure(figsize=(4.0, 3.0))
    axes = figure.subplots()
    for (name, (layers, values)), colour in zip(lines.items(), itertools.cycle(COLOURS)):
        places = [order.index(layer) for layer in layers]
        axes.plot(places, values, marker="o", ms=3.5, lw=1.5, color=colour, label=name)
    for floor in floors:
        axes.axhline(floor, color="#666666", lw=1, ls=":")
    axes.set_xticks(range(len(order)), order, rotation=60 if len(order) > 6 else 0)
    axes.set_ylabel("test accuracy, %")
    axes.legend(fontsize=8)
    return figure


def restyle(figure: Figure, styles: Mapping[str, tuple[str, str]]) -> None:
    """Draws lines in the colours and dashes of a legend outside the figure.

    Args:
      figure: a figure with one pair of axes; its own legend is removed.
      styles: colour and dashes by the line's name.
    """
    (axes,) = figure.axes
    for line in axes.lines:
        if line.get_label() in styles:
            colour, dashes = styles[line.get_label()]
            line.set(color=colour, linestyle=dashes)
    if axes.get_legend():
        axes.get_legend().remove()


@rc_context(STYLE | {"svg.hashsalt": "ddaepp"})  # makes equal figures equal texts
def svg(figure: Figure) -> str:
    """Returns a figure as the text of an SVG."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
