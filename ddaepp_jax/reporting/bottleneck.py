"""Which block to condition on, as short runs' training losses tell: the decision, a table, a
picture.
"""

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

TIE = "tie"
LAST = 0.2  # the part of a run whose mean loss is its score
SMOOTH = 0.05  # the part of a curve that a drawn point is the mean of

Curves = Mapping[str, Mapping[int, Mapping[str, Any]]]  # block -> seed -> row, see ``score``


def score(row: Mapping[str, Any], steps: int) -> float:
    """Mean loss over the last fifth of a run's steps; infinite where the run met one that is not
    finite.

    Args:
      row: "stops", the steps at which parts of the run ended, and "loss", the mean of each.
      steps: of the whole run.
    """
    if row["bad_step"] is not None:
        return float("inf")
    stops = np.array(row["stops"])
    lengths = np.diff(stops, prepend=0)
    last = stops > steps - max(LAST * steps, 1)
    return float(np.average(np.array(row["loss"])[last], weights=lengths[last]))


def decide(scores: Mapping[str, Mapping[int, float]]) -> dict[str, Any]:
    """The block of the lowest loss, where its gap to each other exceeds the seeds' spread.

    A gap is the mean over seeds of the difference to the best block, its spread their standard
    deviation (ddof 1): runs of one seed have the same data, noise and initial values. Blocks whose
      gap does not exceed its spread tie with
    the best; one seed has no spread, and so all do. Losses that are not finite lose.

    Args:
      scores: block -> seed -> loss; the same seeds, one at least, for each block.

    Returns:
      "winner": a block, or "tie"; "best": the block of the lowest mean; "tied": those that tie with
        it; "runner_up",
      "gap" and "spread": the second lowest's; "candidates": by block its "loss" by seed, "mean",
        "gap", "spread".
      None stands for what is not finite and for the spread of one seed.
    """
    seeds = sorted(next(iter(scores.values())))
    losses = {name: np.array([by_seed[seed] for seed in seeds]) for name, by_seed in scores.items()}
    order = sorted(losses, key=lambda name: losses[name].mean())
    best, runner_up = order[0], order[1]
    candidates, tied = {}, []
    for name, values in losses.items():
        finite = bool(np.isfinite(values).all())
        gaps = values - losses[best] if finite else np.array([])
        spread = float(gaps.std(ddof=1)) if len(gaps) > 1 else None
        candidates[name] = {
            "loss": {
                str(seed): float(v) if np.isfinite(v) else None
                for seed, v in zip(seeds, values, strict=True)
            },
            "mean": float(values.mean()) if finite else None,
            "gap": float(gaps.mean()) if finite else None,
            "spread": spread,
        }
        if name != best and finite and (spread is None or gaps.mean() <= spread):
            tied.append(name)
    decided = len(seeds) > 1 and not tied and candidates[best]["mean"] is not None
    second = {key: candidates[runner_up][key] for key in ("gap", "spread")}
    common = {"best": best, "tied": tied, "runner_up": runner_up, **second}
    return {"winner": best if decided else TIE, **common, "candidates": candidates}


def advice(found: Mapping[str, Any]) -> str:
    """What to do with a decision that ``decide`` made, for a terminal; begins with the line to
    paste, if there is one.

    Args:
      found: with "seeds" and "line" beside it.
    """
    if found["winner"] != TIE:
        return f"the lowest training loss has {found['winner']}; paste into the config:\n\n    {found['line']}"
    if found["candidates"][found["best"]]["mean"] is None:
        return "every candidate met a loss that is not finite: lower optimizer.learning_rate, in another --workdir"
    if len(found["seeds"]) == 1:
        return f"tie: one seed has no spread to compare with (the lowest is {found['best']}'s); give more --seeds"
    names = ", ".join([found["best"], *found["tied"]])
    return (
        f"tie: {names} differ by no more than seeds do; keep the config's own, or give more --steps in another "
        "--workdir (more --seeds make what is found surer, a winner no likelier)"
    )


def table(found: Mapping[str, Any]) -> str:
    """The candidates in the order of the network, for a terminal."""
    lines = []
    for name, row in found["candidates"].items():
        remark = (
            "lowest" if name == found["best"] else "ties with it" if name in found["tied"] else ""
        )
        if row["mean"] is None:
            lines.append([name, "not finite", "", "", "", ""])
            continue
        values = list(row["loss"].values())
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        gap = [None, None] if name == found["best"] else [row["gap"], row["spread"]]
        numbers = [
            "" if value is None else f"{value:.5f}" for value in (row["mean"], deviation, *gap)
        ]
        lines.append([name, *numbers, remark])
    headers = ["block", "loss", "± seeds", "gap to the lowest", "± seeds", ""]
    return tabulate(
        lines, headers, disable_numparse=True, colalign=("left", *["right"] * 4, "left")
    )


@rc_context(STYLE)
def figure(curves: Curves, found: Mapping[str, Any]) -> Figure:
    """Smoothed losses, their differences to the mean of all blocks, and the final loss by block;
    means over seeds.
    """
    made = Figure(figsize=(2.2 * plots.WIDTH, 3.6))
    left, middle, right = made.subplots(1, 3)
    colours = _colours(list(curves))
    finite = {
        name: list(rows.values())
        for name, rows in curves.items()
        if found["candidates"][name]["mean"] is not None
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
        axes.xaxis.set_major_locator(MaxNLocator(5))
    _final(right, found, colours)
    made.legend(*left.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=6)
    return made


def _colours(names: Sequence[str]) -> dict[str, str]:
    """A colour each; of many blocks, a scale in their order."""
    if len(names) <= len(COLOURS):
        return dict(zip(names, COLOURS, strict=False))
    return {
        name: to_hex(colormaps["viridis"](i / (len(names) - 1))) for i, name in enumerate(names)
    }


def _smoothed(loss: Sequence[float]) -> np.ndarray:
    """A running mean that keeps the length; at the ends, of what is there."""
    window = np.ones(max(1, round(SMOOTH * len(loss))))
    return np.convolve(loss, window, "same") / np.convolve(np.ones(len(loss)), window, "same")


def _band(axes: Axes, x: np.ndarray, values: np.ndarray, colour: str, name: str) -> None:
    """The mean over seeds of (seeds, points) as a line, their standard deviation as a band."""
    mean, deviation = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else 0
    axes.plot(x, mean, color=colour, lw=1.3, label=name)
    axes.fill_between(x, mean - deviation, mean + deviation, color=colour, alpha=0.15, lw=0)


def _final(axes: Axes, found: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    """Losses of the last fifth in block order; a bar is the spread over seeds of the gap to the
    lowest.
    """
    names = list(found["candidates"])
    for i, (name, row) in enumerate(found["candidates"].items()):
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
        axes.errorbar(i, row["mean"], row["spread"], fmt="o", ms=5, capsize=3, color=colours[name])
    best = found["candidates"][found["best"]]["mean"]
    if best is not None:
        axes.axhline(best, color="#666666", lw=0.8, ls=":")
        place = names.index(found["best"])
        text = "lowest: a tie" if found["winner"] == TIE else "winner"
        axes.plot(place, best, "o", ms=11, mfc="none", mec=COLOURS[1], mew=1.5)
        axes.annotate(
            text, (place, best), (0, -13), textcoords="offset points", ha="center", size=8
        )
    axes.margins(y=0.2)
    axes.set_xticks(range(len(names)), names, rotation=60 if len(names) > 4 else 0)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_title("final loss, ± the spread of its gap", fontsize=9)
