"""What a run did, as one page to look at: numbers, curves, samples, probes, config; or several runs
side by side.

    python -m ddaepp_jax.report --workdir=runs/digits
    python -m ddaepp_jax.report --compare runs/plain runs/conditioned --out=both.html

It reads the run directory's files and nothing else: it needs no accelerator, no data and no whole
checkpoint, takes seconds, and can be made while the run trains. The page is one file that asks for
nothing from a network.
"""

import argparse
import itertools
import math
import shlex
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from ddaepp_jax import config as schema
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.cli.arguments import Parser
from ddaepp_jax.cli.start import launch
from ddaepp_jax.reporting import html, plots
from ddaepp_jax.reporting import probes as probe_results
from ddaepp_jax.reporting.record import BY_LEVEL, PROBED, RATE, Record, headlines, probed, read

DASHES = ("solid", "dashed", "dotted")
MANY = 6  # noise levels, beyond which a probe's figures are wide
STRIP = 40  # earlier grids on a page, evenly chosen: a long run has hundreds
PANELS = (  # title, metrics, axis, whether it is logarithmic, in which page: of one run, of several
    ("Training loss", "loss", "loss", True, (True, True)),
    ("Held-out loss, mean over noise levels", "heldout_loss/.+/mean", "loss", True, (True, True)),
    ("Held-out loss by noise level", BY_LEVEL, "loss", True, (True, False)),
    ("Held-out loss by noise level, newest", BY_LEVEL, "loss", True, (False, True)),
    ("Linear probe and kNN while training", "(probe|knn)/.+", "accuracy, %", False, (True, False)),
    ("Linear probe while training", "probe/.+", "accuracy, %", False, (False, True)),
    ("kNN while training", "knn/.+", "accuracy, %", False, (False, True)),
    (
        "Frechet distance while training",
        "fid/.+/(fid|[a-z]+-fd)[0-9]+k?(-[a-z0-9]+)?/.+",
        "distance",
        False,
        (True, True),
    ),
    ("Effective rank of features", "features/.+/effective_rank", "dimensions", False, (True, True)),
    ("Uniformity of features", "features/.+/uniformity", "log of a mean", False, (True, True)),
    ("Spread of features", "features/.+/spread", "deviation × √D", False, (True, True)),
    ("Alignment of two views", "features/.+/alignment", "squared distance", False, (True, True)),
    ("Throughput", RATE, "images/s/device", False, (True, True)),
    ("Gradient norm", "grad_norm", "norm", True, (True, False)),
)


def report(workdirs: Sequence[Path]) -> str:
    """The page of a run, or of several side by side, as HTML that stands alone.

    Raises:
      InputError: not a run directory, a file in it is damaged, or one is given twice.
    """
    paths, length = [path.resolve() for path in workdirs], 1
    if len(set(paths)) < len(paths):
        raise InputError(
            f"--compare: {statistics.mode(map(str, paths))} is given twice; give different runs"
        )
    names = [path.name for path in paths]
    while len(set(names)) < len(names):
        length += 1
        names = ["/".join(path.parts[-length:]) for path in paths]
    runs = [read(*each) for each in zip(workdirs, names, strict=True)]
    return _alone(runs[0]) if len(runs) == 1 else _together(runs)


def _alone(run: Record) -> str:
    model = run.config.model
    sizes = [
        f"{name} {model[name]}"
        for name in ("depth", "width", "num_heads", "patch_size")
        if name in model
    ]
    kinds = [name for name in ("self_condition", "class_conditional") if model.get(name)]
    about = f"{run.config.data.name}; {', '.join([model.name, *sizes, *kinds])}; {run.version or 'version unknown'}"
    tiles = "".join(
        f"<div><dt>{html.escape(title)}</dt><dd>{html.escape(line.text)}<small>{html.escape(line.note)}</small></dd></div>"
        for title, line in headlines(run).items()
    )
    sections = {
        "Curves": _curves([run], {}),
        "Samples": _samples(run),
        "Probes": "".join(_probe(*each) for each in run.probes.items()),
        "Scores": "".join(_scores(*each) for each in run.scores.items()),
        "Config": _config(run.config),
        "Timings": _timings(run),
    }
    for title, line in _missing([run]).items():
        sections[title] += line
    return html.page(
        run.name,
        f'<p class="quiet">{html.escape(about)}</p>',
        f'<dl class="tiles">{tiles}</dl>',
        sections,
    )


def _lines(runs: Sequence[Record], pattern: str) -> dict[str, plots.Series]:
    """Of one run every metric that matches, and three evaluations by level; of several each run's
    last.
    """
    if len(runs) > 1:
        every = {
            run.name: run.by_level() if pattern == BY_LEVEL else run.metrics(pattern)
            for run in runs
        }
        return {name: [*series.values()][-1] for name, series in every.items() if series}
    if pattern != BY_LEVEL:
        return runs[0].metrics(pattern)
    found = list(runs[0].by_level().items())
    shown = dict(found[i] for i in (0, len(found) // 2, -1)) if found else {}
    return {f"step {step:,}": series for step, series in shown.items()}


def _curves(runs: Sequence[Record], styles: Mapping[str, tuple[str, str]]) -> str:
    cells = []
    for title, pattern, ylabel, log, where in PANELS:
        series = _lines(runs, pattern) if where[len(runs) > 1] else {}
        if series:
            figure = plots.panel(
                series, "noise level" if pattern == BY_LEVEL else "step", ylabel, log
            )
            if styles:
                plots.restyle(figure, styles)
            cells.append(html.plot(title, figure))
    return html.grid(cells)


def _samples(run: Record) -> str:
    """The last grid and those that ``sample`` drew, and a strip of the earlier ones."""
    steps = sorted(run.grids, reverse=True)
    large = [html.picture(f"step {step:,}", run.grids[step]) for step in steps[:1]]
    large += [html.picture(f"{name}, by sample", picture) for name, picture in run.drawn.items()]
    every = max(1, -(-len(steps[1:]) // STRIP))
    earlier = [html.picture(f"step {step:,}", run.grids[step]) for step in steps[1::every]]
    strip = f'<div class="strip">{"".join(earlier)}</div>' if earlier else ""
    return (
        html.grid(large, "two")
        + strip
        + (f'<p class="quiet">One in {every} of the earlier grids.</p>' * (every > 1))
    )


def _probe(name: str, probe: Mapping[str, Any]) -> str:
    """A probe's figures, and the table of its best noise level."""
    best, figures = probe["best"], probe_results.figures(probe)
    columns, cells = probe_results.columns(probe), []
    for row in probe_results.at_best(probe):
        layer = "b" if row["layer"] == best["layer"] else "span"
        cells.append(
            [
                html.tag(layer, row["layer"]),
                *(f"{row[column]:{form}}" for column, (_, form) in columns.items()),
            ]
        )
    data = ". ".join(
        f"{what.capitalize()} {images}" for what, images in probe["data"].items() if what != "name"
    )
    wide = len(probe["levels"]) > MANY
    for figure in () if wide else figures.values():
        figure.set_figwidth(4)
    shown = [
        html.plot("By layer and noise level", figures["grid"]),
        html.plot("By layer", figures["layers"]),
        html.table(
            [f"level {best['noise_level']:g}", *(title for title, _ in columns.values())],
            cells,
            "numbers",
        ),
    ]
    about = f"<p>Best: {html.tag('code', best['metric'])}. {html.escape(data)}. Accuracies in percent.</p>"
    about += "".join(f"<p>{html.escape(line)}</p>" for line in probe_results.collapsed(probe))
    return f"<h3>{html.escape(name)}</h3>{about}{html.grid(shown, 'two' if wide else '')}"


def _scores(name: str, scores: Mapping[str, Any]) -> str:
    """The table of a set of samples' scores: a row a score, a column a seed."""
    whole, rows = scores["metrics"], scores["rows"]
    shown = [key for key in rows[0] if key in scores["mean"] and not key.endswith("_std")]
    columns = {f"seed {row['seed']}": row for row in rows}
    if len(rows) > 1:
        columns = {"mean": scores["mean"], "standard deviation": scores["std"], **columns}
    cells = [
        [html.tag("code", title), *(f"{column[key]:.4f}" for column in columns.values())]
        for key, title in zip(shown, whole, strict=True)
    ]
    extractor, reference = scores["extractor"], scores["reference"]
    about = f"{scores['n']:,} samples at step {scores['step']:,}; {extractor['kind']} {extractor['hash'][:8]}"
    if accuracy := extractor["made"].get("accuracy"):
        about += f", of {accuracy:.1f} % accuracy"
    images = reference.get("images", {}).get("images")
    about += (
        f"; against {images:,} images of {reference['name']}"
        if images
        else f"; against {reference['name']}"
    )
    table = html.table(["score", *columns], cells, "numbers")
    return f"<h3>{html.escape(name)}</h3><p>{html.escape(about)}.</p>{table}"


def _fields(config: ConfigDict) -> dict[str, str]:
    """Values as Python writes them, by dotted name."""
    return {
        name: repr(value) for name, value in sorted(flatten_dict(config.to_dict(), sep=".").items())
    }


def _config(config: ConfigDict) -> str:
    """The fields that differ from the defaults, and all of them by group."""
    fields, defaults = _fields(config), _fields(schema.get_config())
    changed = {name for name, value in fields.items() if defaults.get(name) != value}
    groups: dict[str, list[list[str]]] = {}
    for name, value in fields.items():
        group, _, field = name.rpartition(".")
        groups.setdefault(group, []).append(
            [html.tag("b" if name in changed else "span", field), html.tag("code", value)]
        )
    each = (
        f"<h3>{html.escape(group or 'run')}</h3>{html.table([], rows)}"
        for group, rows in groups.items()
    )
    whole = "".join(f"<section>{group}</section>" for group in each)
    rows = [(name, fields[name], defaults.get(name, "no such field")) for name in sorted(changed)]
    different = html.table(
        ["field", "value", "default"], [[html.tag("code", text) for text in row] for row in rows]
    )
    return (
        f"<p>{len(changed)} of {len(fields)} fields differ from the defaults.</p>{different if changed else ''}"
        f'<details><summary>The whole config</summary><div class="groups">{whole}</div></details>'
    )


def _timings(run: Record) -> str:
    """What the files tell of speed, time, devices and software."""
    cells = []
    for name, title in ((RATE, "images/s/device"), ("mfu", "MFU")):
        for _, values in run.metrics(name).values():
            cells.append(
                [title, f"median {statistics.median(values):,.4g}, last {values[-1]:,.4g}"]
            )
    known = {step: beside for step, beside in run.saved.items() if beside}
    for mesh in [beside["mesh"] for beside in known.values()][-1:]:
        for steps, rates in run.metrics(RATE).values():
            images = np.diff(steps, prepend=0) * run.config.train.batch_size
            seconds = float(np.sum(images / np.asarray(rates))) / math.prod(mesh.values())
            cells.append(
                ["training", f"{_time(seconds)}, without evaluation, checkpoints and compilation"]
            )
        cells.append(["devices", ", ".join(f"{axis} {size}" for axis, size in mesh.items())])
    for step, beside in known.items():
        written = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(beside["written"]))
        cells.append([f"checkpoint {step:,}", f"written {written} UTC"])
    for name, probe in run.probes.items():
        parts = {
            "pixels" if level == "None" else f"level {level}": s
            for level, s in probe["seconds"].items()
        }
        each = ", ".join(f"{part} {_time(seconds)}" for part, seconds in parts.items())
        cells.append([name, f"{_time(sum(parts.values()))}: {each}"])
    cells.append(["software", run.version or "no version.txt"])
    return html.table([], [[html.escape(title), html.escape(text)] for title, text in cells])


def _together(runs: Sequence[Record]) -> str:
    colours = itertools.product(DASHES, plots.COLOURS)
    styles = {
        run.name: (colour, dashes)
        for run, (dashes, colour) in zip(runs, itertools.cycle(colours), strict=False)
    }
    names = [html.key(name, *style) for name, style in styles.items()]
    newest = [(run, max(run.grids)) for run in runs if run.grids]
    sections = {
        "Curves": f"<p>{''.join(names)}</p>{_curves(runs, styles)}",
        "Probes": _layers(runs, styles),
        "Samples": html.grid(
            html.picture(f"{run.name}, step {step:,}", run.grids[step]) for run, step in newest
        ),
        "Config": _differences(runs, names),
    }
    for title, line in _missing(runs).items():
        sections[title] += line
    title = ", ".join(styles) if len(runs) < 4 else f"{len(runs)} runs"
    return html.page(title, "", _headline_table(runs, names), sections)


def _missing(runs: Sequence[Record]) -> dict[str, str]:
    """A line by section for what is not there yet, with the command that makes it."""
    lines = dict.fromkeys(
        ("Curves", "Samples", "Probes", *(["Scores"] if len(runs) == 1 else [])), ""
    )
    for run in runs:
        for section, program, found, text in (
            ("Curves", "main --config=FILE", run.rows, "No metrics yet; they are written by"),
            (
                "Samples",
                "sample",
                run.grids or run.drawn,
                "No samples yet; they are drawn in training, or by",
            ),
            ("Probes", "linear_probe", run.probes, "No probe yet; one is made by"),
            ("Scores", "fid", run.scores or len(runs) > 1, "No scores yet; they are made by"),
        ):
            if not found:
                command = f"python -m ddaepp_jax.{program} --workdir={shlex.quote(str(run.path))}"
                lines[section] += f'<p class="quiet">{text} {html.tag("code", command)}</p>'
    return lines


def _headline_table(runs: Sequence[Record], names: Sequence[str]) -> str:
    """A row a run, the best of a column in bold; beneath, what the probes' numbers are."""
    found = [headlines(run) for run in runs]
    columns = {title: [each.get(title) for each in found] for title in itertools.chain(*found)}
    cells = [[name] for name in names]
    for column in columns.values():
        better, values = (
            {number.better for number in column if number},
            {number.value for number in column if number},
        )
        best = better.pop()(values) if len(values) > 1 and None not in better else None
        for row, number in zip(cells, column, strict=True):
            row.append(
                "" if not number else html.tag("b" if number.value == best else "span", number.text)
            )
    notes = [
        (name, each[PROBED].note) for name, each in zip(names, found, strict=True) if PROBED in each
    ]
    return html.table(["run", *map(html.escape, columns)], cells, "numbers") + "".join(
        f'<p class="quiet">{name}{html.escape(note)}</p>' for name, note in notes
    )


def _layers(runs: Sequence[Record], styles: Mapping[str, tuple[str, str]]) -> str:
    """Each run's best probe by layer, at its best noise level."""
    lines, floors = {}, set()
    for run in runs:
        for probe in [*run.probes.values()][:1]:
            layers, levels, accuracies = probe_results.grid(probe, "linear_test")
            lines[run.name] = layers, accuracies[:, levels.index(probe["best"]["noise_level"])]
            floors.add(probed(probe)["raw pixels, %"].value)
    if not lines:
        return ""
    figure = plots.layer_curves(lines, sorted(floors))
    plots.restyle(figure, styles)
    return html.grid(
        [
            html.plot(
                "Linear probe by layer, each run at its best noise level; dotted: raw pixels",
                figure,
            )
        ]
    )


def _differences(runs: Sequence[Record], names: Sequence[str]) -> str:
    """The fields that are not the same in all runs."""
    fields = [_fields(run.config) | {"version.txt": run.version} for run in runs]
    rows = [
        (name, *(own.get(name, "no such field") for own in fields))
        for name in sorted(set().union(*fields))
    ]
    cells = [[html.tag("code", text) for text in row] for row in rows if len(set(row[1:])) > 1]
    return html.table(["field", *names], cells) if cells else "<p>The configs are the same.</p>"


def _time(seconds: float) -> str:
    return (
        f"{seconds:.1f} s"
        if seconds < 120
        else f"{seconds / 60:.1f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def main(argv: Sequence[str]) -> None:
    args = _parse(argv)
    if args.compare is not None and len(args.compare) < 2:
        raise InputError("--compare: give two run directories or more; --workdir=RUN is for one")
    out = args.out or (args.workdir / "report.html" if args.workdir else Path("comparison.html"))
    page = report(args.compare or [args.workdir])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"--out: cannot write {out} ({error.strerror}); give another") from None
    print(f"look at {out}")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("ddaepp_jax.report", __doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--workdir", type=Path, help="run directory")
    what.add_argument(
        "--compare", type=Path, nargs="*", metavar="RUN", help="run directories, side by side"
    )
    where = "the page (default: WORKDIR/report.html; of several runs: comparison.html in the current directory)"
    parser.add_argument("--out", type=Path, help=where)
    return parser.parse_args(argv)


if __name__ == "__main__":
    launch(main)
