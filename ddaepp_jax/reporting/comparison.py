"""The page that compares several runs."""

import itertools
from collections.abc import Sequence

from ddaepp_jax.reporting import headlines, html, plots
from ddaepp_jax.reporting.headlines import Headline
from ddaepp_jax.reporting.panels import Panel
from ddaepp_jax.reporting.record import Record
from ddaepp_jax.reporting.sections import config, curves, probes, samples

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
    return html.document(title, "", _headline_table(runs, keys), sections)


def _headline_table(runs: Sequence[Record], keys: Sequence[str]) -> str:
    """Returns the headline numbers, a row for each run, and a line about each run's probe."""
    numbers = [headlines.of_run(run) for run in runs]
    titles = list(dict.fromkeys(itertools.chain(*numbers)))
    columns = [_column([own.get(title) for own in numbers]) for title in titles]
    rows = zip(keys, *columns, strict=True)
    table = html.table(["run", *map(html.escape, titles)], rows, "numbers")
    notes = [
        html.quiet(f"{key}{html.escape(own[headlines.PROBE].note)}")
        for key, own in zip(keys, numbers, strict=True)
        if headlines.PROBE in own
    ]
    return table + "".join(notes)


def _column(numbers: Sequence[Headline | None]) -> list[str]:
    """Returns a cell for each run's number, the best in bold if the numbers differ."""
    present = [number for number in numbers if number]
    values = {number.value for number in present}
    better = present[0].better
    best = better(values) if better and len(values) > 1 else None
    cells = []
    for number in numbers:
        if number is None:
            cells.append("")
        else:
            cells.append(html.tag("b" if number.value == best else "span", number.text))
    return cells
