"""The section of the metrics' curves."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from ddaepp_jax.reporting import html, plots
from ddaepp_jax.reporting.panels import Panel
from ddaepp_jax.reporting.plots import Series
from ddaepp_jax.reporting.record import OBJECTIVES, RATE, Record

# Panels of the metrics that training itself writes; the evaluators' panels are between them.
FIRST = (Panel("Training loss", "loss", "loss", log=True),)
FIRST_OF_SUMMED = (
    Panel("Training loss, the weighted sum of the objectives", "loss", "loss", log=True),
    Panel("Training loss by objective", OBJECTIVES, "loss", log=True, together=False),
    Panel("Training loss of denoising", "denoising/loss", "loss", log=True, alone=False),
)
LAST = (
    Panel("Throughput", RATE, "images/s/device"),
    Panel("Gradient norm", "grad_norm", "norm", log=True, together=False),
)


def of_run(run: Record, panels: Sequence[Panel]) -> str:
    """Returns the panels whose metrics the run has written."""
    if not run.rows:
        return _no_metrics(run)
    plotted = []
    for panel in (*_first([run]), *panels, *LAST):
        series = _evaluations(run, panel) if panel.by_level else run.metrics(panel.metrics)
        if panel.alone and series:
            plotted.append(html.plot(panel.title, _figure(panel, series)))
    return html.grid(plotted)


def of_runs(
    runs: Sequence[Record], panels: Sequence[Panel], styles: Mapping[str, tuple[str, str]]
) -> str:
    """Returns the panels with one curve for each run that has written the metric.

    Args:
      styles: colour and dashes of each run's line.
    """
    plotted = []
    for panel in (*_first(runs), *panels, *LAST):
        newest = {run.name: _newest(run, panel) for run in runs}
        series = {name: curve for name, curve in newest.items() if curve}
        if panel.together and series:
            figure = _figure(panel, series)
            plots.restyle(figure, styles)
            plotted.append(html.plot(panel.title, figure))
    return html.grid(plotted) + "".join(_no_metrics(run) for run in runs if not run.rows)


def _first(runs: Sequence[Record]) -> Sequence[Panel]:
    """Returns the panels of the training loss."""
    return FIRST_OF_SUMMED if any(run.is_summed() for run in runs) else FIRST


def _evaluations(run: Record, panel: Panel) -> dict[str, Series]:
    """Returns the curves over noise levels of the first, the middle and the newest evaluation."""
    evaluations = run.by_level(panel.metrics)
    if not evaluations:
        return {}
    steps = list(evaluations)
    shown = dict.fromkeys((steps[0], steps[len(steps) // 2], steps[-1]))
    return {f"step {step:,}": evaluations[step] for step in shown}


def _newest(run: Record, panel: Panel) -> Series | None:
    """Returns the run's curve in a comparison.

    It is that of the last matching metric, or of the newest step.
    """
    series = run.by_level(panel.metrics) if panel.by_level else run.metrics(panel.metrics)
    return list(series.values())[-1] if series else None


def _figure(panel: Panel, series: Mapping[str, Series]) -> Figure:
    xlabel = "noise level" if panel.by_level else "step"
    # A later evaluation is darker.
    colours = plots.shades(len(series)) if panel.by_level else plots.COLOURS
    return plots.panel(series, xlabel, panel.ylabel, panel.log, colours)


def _no_metrics(run: Record) -> str:
    command = html.tag("code", run.command("main --config=FILE"))
    return html.quiet(f"No metrics yet; they are written by {command}")
