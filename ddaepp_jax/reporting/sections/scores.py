"""The section of the results of ``fid``."""

from collections.abc import Mapping
from typing import Any

from ddaepp_jax.reporting import html
from ddaepp_jax.reporting.record import Record


def of_run(run: Record) -> str:
    """Returns a table for each set of samples."""
    if not run.scores:
        command = html.tag("code", run.command("fid"))
        return html.quiet(f"No scores yet; they are made by {command}")
    return "".join(of_scores(name, scores) for name, scores in run.scores.items())


def of_scores(name: str, scores: Mapping[str, Any]) -> str:
    """Returns the table of a set of samples below its name."""
    return html.tag("h3", name) + html.tag("p", f"{_about(scores)}.") + _table(scores)


def _about(scores: Mapping[str, Any]) -> str:
    """Returns the samples, the network of the features, and the reference in a line."""
    extractor = scores["extractor"]
    network = f"{extractor['kind']} {extractor['hash'][:8]}"
    accuracy = extractor["made"].get("accuracy")
    if accuracy:
        network += f", of {accuracy:.1f} % accuracy"
    reference = scores["reference"]["name"]
    images = scores["reference"].get("images", {}).get("images")
    if images:
        reference = f"{images:,} images of {reference}"
    return f"{scores['n']:,} samples at step {scores['step']:,}; {network}; against {reference}"


def _table(scores: Mapping[str, Any]) -> str:
    """Returns a row for each score, with a column for each seed."""
    rows = scores["rows"]
    keys = [key for key in rows[0] if key in scores["mean"] and not key.endswith("_std")]
    columns = {f"seed {row['seed']}": row for row in rows}
    if len(rows) > 1:
        columns = {"mean": scores["mean"], "standard deviation": scores["std"], **columns}
    cells = []
    for key, name in zip(keys, scores["metrics"], strict=True):
        values = [f"{column[key]:.4f}" for column in columns.values()]
        cells.append([html.tag("code", name), *values])
    return html.table(["score", *map(html.escape, columns)], cells, "numbers")
