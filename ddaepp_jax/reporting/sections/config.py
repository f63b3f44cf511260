"""The section of the config."""

from collections.abc import Mapping, Sequence
from typing import Any

from ddaepp_jax.reporting import html
from ddaepp_jax.reporting.record import Record

ABSENT = "no such field"


def of_run(run: Record) -> str:
    """Returns the fields that differ from the defaults, and the whole config.

    Without recorded defaults, only the whole config is returned.
    """
    fields = _fields(run.config)
    if run.defaults is None:
        return (
            "<p>This run directory does not record the defaults of its version, so all fields are "
            f"shown.</p>{_groups(fields, set())}"
        )
    defaults = _fields(run.defaults)
    changed = [name for name, value in fields.items() if defaults.get(name) != value]
    rows = [(name, fields[name], defaults.get(name, ABSENT)) for name in changed]
    table = html.table(["field", "value", "default"], _code(rows)) if rows else ""
    return (
        f"<p>{len(changed)} of {len(fields)} fields differ from the defaults.</p>{table}"
        f"<details><summary>The whole config</summary>{_groups(fields, set(changed))}</details>"
    )


def of_runs(runs: Sequence[Record], keys: Sequence[str]) -> str:
    """Returns the fields that are not the same in all runs.

    Args:
      keys: the columns' titles as HTML, one for each run.
    """
    fields = [_fields(run.config) | {"version.txt": run.version} for run in runs]
    rows = []
    for name in sorted(set().union(*fields)):
        values = [own.get(name, ABSENT) for own in fields]
        if len(set(values)) > 1:
            rows.append([name, *values])
    if not rows:
        return "<p>The configs are the same.</p>"
    return html.table(["field", *keys], _code(rows))


def _groups(fields: Mapping[str, str], changed: set[str]) -> str:
    """Returns a table of each group's fields, with the changed ones in bold."""
    groups: dict[str, list[list[str]]] = {}
    for name, value in fields.items():
        group, _, field = name.rpartition(".")
        cell = html.tag("b" if name in changed else "span", field)
        groups.setdefault(group or "run", []).append([cell, html.tag("code", value)])
    tables = [f"{html.tag('h3', group)}{html.table([], rows)}" for group, rows in groups.items()]
    sections = "".join(f"<section>{table}</section>" for table in tables)
    return f'<div class="groups">{sections}</div>'


def _fields(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns the fields' values as Python writes them, by dotted name in alphabetical order."""
    fields = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            fields |= _fields(value, f"{prefix}{name}.")
        else:
            fields[f"{prefix}{name}"] = repr(_tuples(value))
    return dict(sorted(fields.items()))


def _tuples(value: Any) -> Any:
    """Returns a value with tuples instead of lists, which JSON reads; a config has only tuples."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return value


def _code(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[html.tag("code", text) for text in row] for row in rows]
