"""The section of the results of ``linear_probe``."""

from collections.abc import Mapping, Sequence
from typing import Any

from ddaepp_jax.reporting import headlines, html, plots, probes
from ddaepp_jax.reporting.record import Record

MANY = 6  # A probe of more noise levels has wide figures.


def of_run(run: Record) -> str:
    """Returns each probe of a run, the best first."""
    if not run.probes:
        return _no_probe(run)
    return "".join(_probe(name, probe) for name, probe in run.probes.items())


def of_runs(runs: Sequence[Record], styles: Mapping[str, tuple[str, str]]) -> str:
    """Returns the accuracy by layer of each run's best probe, at its best noise level.

    Args:
      styles: colour and dashes of each run's line.
    """
    lines = {}
    pixels = set()
    for run in runs:
        for probe in list(run.probes.values())[:1]:
            layers, levels, accuracies = probes.grid(probe, "linear_test")
            best = levels.index(probe["best"]["noise_level"])
            lines[run.name] = layers, accuracies[:, best]
            pixels.add(headlines.of_probe(probe)[headlines.RAW_PIXELS].value)
    missing = "".join(_no_probe(run) for run in runs if not run.probes)
    if not lines:
        return missing
    figure = plots.layer_curves(lines, sorted(pixels))
    plots.restyle(figure, styles)
    title = "Linear probe by layer, each run at its best noise level; dotted: raw pixels"
    return html.grid([html.plot(title, figure)]) + missing


def _probe(name: str, probe: Mapping[str, Any]) -> str:
    """Returns a probe's figures, and a table of the layers at its best noise level."""
    wide = len(probe["levels"]) > MANY
    figures = probes.figures(probe)
    if not wide:
        for figure in figures.values():
            figure.set_figwidth(4)
    cells = [
        html.plot("By layer and noise level", figures["grid"]),
        html.plot("By layer", figures["layers"]),
    ]
    parts = {part: text for part, text in probe["data"].items() if part != "name"}
    data = ". ".join(f"{part.capitalize()} {text}" for part, text in parts.items())
    return "".join(
        [
            html.tag("h3", name),
            f"<p>Best: {html.tag('code', probe['best']['metric'])}. {html.escape(data)}. "
            "Accuracies in percent.</p>",
            *(html.tag("p", line) for line in probes.collapsed(probe)),
            html.grid(cells, "two"),
            _table(probe),
        ]
    )


def _table(probe: Mapping[str, Any]) -> str:
    """Returns the layers' numbers at the best noise level; the best layer is bold."""
    best = probe["best"]
    columns = probes.columns(probe)
    rows = []
    for row in probes.at_best(probe):
        layer = html.tag("b" if row["layer"] == best["layer"] else "span", row["layer"])
        rows.append([layer, *(f"{row[name]:{form}}" for name, (_, form) in columns.items())])
    titles = [f"level {best['noise_level']:g}", *(title for title, _ in columns.values())]
    return html.table([html.escape(title) for title in titles], rows, "numbers")


def _no_probe(run: Record) -> str:
    command = html.tag("code", run.command("linear_probe"))
    return html.quiet(f"No probe yet; one is made by {command}")
