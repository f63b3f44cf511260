"""The page that compares several runs."""

import itertools
import math
from collections.abc import Mapping, Sequence

from ddaepp_jax.reporting import headlines, html, plots
from ddaepp_jax.reporting.headlines import Headline
from ddaepp_jax.reporting.panels import Panel
from ddaepp_jax.reporting.record import Record
from ddaepp_jax.reporting.sections import config, curves, probes, samples

SHOWN = 3  # differences that a line about a column without a best run names
DASHES = ("solid", "dashed", "dotted")


def comparison(runs: Sequence[Record], panels: Sequence[Panel]) -> str:
    """Returns the page of several runs side by side; each has one line style throughout."""
    kinds = itertools.cycle((colour, dashes) for dashes in DASHES for colour in plots.COLOURS)
    styles = dict(zip([run.name for run in runs], kinds, strict=False))
    keys = [html.key(name, *style) for name, style in styles.items()]
    sections = {
        "Curves": f"<p>{''.join(keys)}</p>{curves.of_runs(runs, panels, styles)}",
        "Probes": probes.of_runs(runs, styles),
        "Samples": samples.of_runs(runs),
        "Config": config.of_runs(runs, keys),
    }
    title = ", ".join(styles) if len(runs) < 4 else f"{len(runs)} runs"
    left_out = html.left_out(line for run in runs for line in run.left_out)
    return html.document(title, "", left_out + _headline_table(runs, keys), sections)


def _headline_table(runs: Sequence[Record], keys: Sequence[str]) -> str:
    """Returns the headline numbers, a row for each run, and a line about each run's probe."""
    numbers = [headlines.of_run(run) for run in runs]
    columns = {
        title: [own.get(title) for own in numbers]
        for title in dict.fromkeys(itertools.chain(*numbers))
    }
    rows = zip(keys, *map(_cells, columns.values()), strict=True)
    table = html.table(["run", *map(html.escape, columns)], rows, "numbers")
    notes = [
        html.quiet(f"{key}{html.escape(own[headlines.PROBE].note)}")
        for key, own in zip(keys, numbers, strict=True)
        if headlines.PROBE in own
    ]
    return table + _not_ranked(columns) + "".join(notes)


def _cells(numbers: Sequence[Headline | None]) -> list[str]:
    """Returns a cell for each run's number.

    The best is bold if the numbers differ and were measured on the same.
    """
    present = [number for number in numbers if number]
    values = {number.value for number in present if math.isfinite(number.value)}
    better = present[0].better
    best = better(values) if better and len(values) > 1 and not _differences(numbers) else None
    cells = []
    for number in numbers:
        if number is None:
            cells.append("")
        else:
            cells.append(html.tag("b" if number.value == best else "span", number.text))
    return cells


def _not_ranked(columns: Mapping[str, Sequence[Headline | None]]) -> str:
    """Returns a line for each reason for which no number of a column is bold."""
    reasons: dict[str, list[str]] = {}
    for title, numbers in columns.items():
        if differences := _differences(numbers):
            more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
            reasons.setdefault(", ".join(differences[:SHOWN]) + more, []).append(title)
    return "".join(
        html.quiet(
            html.escape(
                f"No run is marked as the best where these differ: {reason}. "
                f"That concerns {'; '.join(titles)}."
            )
        )
        for reason, titles in reasons.items()
    )


def _differences(numbers: Sequence[Headline | None]) -> list[str]:
    """Returns what a column's ranked numbers were measured on or by that is not the same."""
    measured = [number.measured for number in numbers if number and number.better]
    if not measured:
        return []
    shared = [name for name in measured[0] if all(name in other for other in measured)]
    return [name for name in shared if any(own[name] != measured[0][name] for own in measured)]
