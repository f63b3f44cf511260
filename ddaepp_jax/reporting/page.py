"""The page of a run, or of several runs side by side."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.reporting import headlines, html, run_directory
from ddaepp_jax.reporting.comparison import comparison
from ddaepp_jax.reporting.panels import Panel
from ddaepp_jax.reporting.record import Record
from ddaepp_jax.reporting.sections import config, curves, probes, samples, scores, timings

SIZES = ("depth", "width", "num_heads", "patch_size")
SWITCHES = ("self_condition", "class_conditional")


def read(workdirs: Sequence[Path]) -> list[Record]:
    """Reads run directories.

    Raises:
      InputError: a path is not a run directory, is given twice, or its config is damaged.
    """
    names = _names([workdir.resolve() for workdir in workdirs])
    return [run_directory.read(*each) for each in zip(workdirs, names, strict=True)]


def page(runs: Sequence[Record], panels: Sequence[Panel]) -> str:
    """Returns the HTML page of a run, or the comparison of several.

    Args:
      runs: the runs.
      panels: panels of curves, shown between the training loss and the speed; the panels that the
        runs recorded are added.
    """
    panels = list(dict.fromkeys([*panels, *(panel for run in runs for panel in run.panels)]))
    return _one(runs[0], panels) if len(runs) == 1 else comparison(runs, panels)


def _names(paths: Sequence[Path]) -> list[str]:
    """Returns the shortest ends of the paths, of equal length, that are all different."""
    path, times = Counter(paths).most_common(1)[0]
    if times > 1:
        raise InputError(f"--compare: {path} is given twice; give different runs")
    names = [path.name for path in paths]
    parts = 1
    while len(set(names)) < len(names):
        parts += 1
        names = ["/".join(path.parts[-parts:]) for path in paths]
    return names


def _one(run: Record, panels: Sequence[Panel]) -> str:
    """Returns the page of one run."""
    sections = {
        "Curves": curves.of_run(run, panels),
        "Samples": samples.of_run(run),
        "Probes": probes.of_run(run),
        "Scores": scores.of_run(run),
        "Config": config.of_run(run),
        "Timings": timings.of_run(run),
    }
    top = html.left_out(run.left_out) + _tiles(run)
    return html.document(run.name, html.quiet(html.escape(_about(run))), top, sections)


def _about(run: Record) -> str:
    """Returns the data, the network and the software in a line."""
    model = run.config["model"]
    sizes = [f"{name} {model[name]}" for name in SIZES if name in model]
    switches = [name for name in SWITCHES if model.get(name)]
    network = ", ".join([model["name"], *sizes, *switches])
    return f"{run.config['data']['name']}; {network}; {run.version or 'version unknown'}"


def _tiles(run: Record) -> str:
    """Returns a box for each headline number."""
    boxes = []
    for title, number in headlines.of_run(run).items():
        value = f"<dd>{html.escape(number.text)}{html.tag('small', number.note)}</dd>"
        boxes.append(f"<div>{html.tag('dt', title)}{value}</div>")
    return f'<dl class="tiles">{"".join(boxes)}</dl>'
