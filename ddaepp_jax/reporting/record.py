"""What the files of a run directory tell: metrics, pictures, probes, and the numbers that the run
is judged by.
"""

import base64
import dataclasses
import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.config import saved as run_config
from ddaepp_jax.probing.diagnostics import PIXELS
from ddaepp_jax.reporting import plots
from ddaepp_jax.reporting import probes as probe_results

PROBED = "linear probe, %"
RATE = "images_per_second_per_device"
BY_LEVEL = r"heldout_loss/.+/(t|sigma)[0-9.e-]+"


class Headline(NamedTuple):
    """A number that a run is judged by: how it is shown, what is said of it, and which end is the
    better one.
    """

    value: float
    text: str
    note: str = ""
    better: Callable[[Iterable[float]], float] | None = None


@dataclasses.dataclass(frozen=True)
class Record:
    """What the files of a run directory tell.

    Attributes:
      name: the directory's, with as much of its path as tells it from others.
      rows: of metrics.jsonl.
      saved: what is told beside the arrays of each checkpoint, by step.
      grids: PNGs drawn through training by step; drawn: those by ``sample``, by name.
      probes: what each has found by its name, the best first, those chosen on held-out images
        before others.
      scores: what ``fid`` has found by its name, of the newest step and the most images first.
    """

    path: Path
    name: str
    config: ConfigDict
    version: str
    rows: list[dict[str, float]]
    saved: dict[int, dict[str, Any]]
    grids: dict[int, bytes]
    drawn: dict[str, bytes]
    probes: dict[str, dict[str, Any]]
    scores: dict[str, dict[str, Any]]

    def metrics(self, pattern: str) -> dict[str, plots.Series]:
        """Steps and values of the metrics whose whole name matches."""
        found: dict[str, plots.Series] = {}
        for row in self.rows:
            for name in filter(re.compile(pattern).fullmatch, row):
                steps, values = found.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(row[name])
        return found

    def by_level(self) -> dict[int, plots.Series]:
        """Noise levels and held-out losses of each evaluation by its step."""
        found: dict[int, plots.Series] = {}
        for name, series in self.metrics(BY_LEVEL).items():
            for step, value in zip(*series, strict=True):
                levels, losses = found.setdefault(step, ([], []))
                levels.append(float(re.search("[0-9.e-]+$", name)[0]))
                losses.append(value)
        return found


def read(workdir: Path, name: str = "") -> Record:
    """The files of a run directory, ``name`` being its own by default; what training is just
    writing is left out.

    Raises:
      InputError: it is none, or a file in it is damaged.
    """
    if not (workdir / "config.json").is_file():
        raise InputError(
            f"{workdir}: not a run directory (no config.json); give the --workdir of a training run"
        )
    pictures = {
        file.stem: file.read_bytes() for file in sorted((workdir / "samples").glob("*.png"))
    }
    pictures = {stem: content for stem, content in pictures.items() if content[-8:-4] == b"IEND"}
    checkpoints = sorted(
        (int(e.name), e) for e in (workdir / "checkpoints").glob("*") if e.name.isdigit()
    )
    return Record(
        path=workdir,
        name=name or workdir.resolve().name,
        config=run_config.from_json(_text(workdir / "config.json"), str(workdir / "config.json")),
        version=_text(workdir / "version.txt").strip(),
        rows=_rows(workdir / "metrics.jsonl"),
        saved={step: _beside(directory) for step, directory in checkpoints},
        grids={int(stem): content for stem, content in pictures.items() if stem.isdigit()},
        drawn={stem: content for stem, content in pictures.items() if not stem.isdigit()},
        probes=_probes(workdir / "probe"),
        scores=_scores(workdir / "fid"),
    )


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace") if file.exists() else ""
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); make it readable") from None


def _rows(file: Path) -> list[dict[str, float]]:
    rows = []
    for number, line in enumerate(_text(file).splitlines(keepends=True), 1):
        if not line.endswith("\n"):  # just being written
            break
        try:
            rows.append(json.loads(line))
            if not isinstance(rows[-1]["step"], int) or not all(
                isinstance(v, int | float) for v in rows[-1].values()
            ):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{file}: line {number} is not a row of metrics; remove it") from None
    return rows


def _probes(directory: Path) -> dict[str, dict[str, Any]]:
    rated = []
    for file in sorted(set(directory.glob("*.json")) - {directory / "best.json"}):
        try:
            found = json.loads(_text(file))
            if found["best"]:  # else no noise level is done yet
                by, _ = (
                    found["best"]["chosen_by"],
                    (probe_results.grid(found, "linear_test"), probed(found)),
                )
                name = file.stem + " (under way)" * file.with_name(f"{file.stem}-partial").is_dir()
                rated.append((by == "linear_held_out", found["best"][by], name, found))
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{file}: not a probe's results; remove it") from None
    return {
        name: found for *_, name, found in sorted(rated, key=lambda each: each[:2], reverse=True)
    }


def _scores(directory: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for file in sorted(directory.glob("*.json")):
        try:
            found[file.stem] = each = json.loads(_text(file))
            frechet(each), each["n"] + each["step"], each["std"].keys()  # all that is read of it
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
            raise InputError(f"{file}: not scores of a run; remove it") from None
    return dict(sorted(found.items(), key=lambda each: (-each[1]["step"], -each[1]["n"])))


def frechet(scores: Mapping[str, Any]) -> Headline:
    """The Frechet distance of a run's samples; its name says by which features."""
    name, value = next(iter(scores["metrics"].items()))
    spread, seeds = scores["std"].get("fd"), len(scores["rows"])
    return Headline(
        value,
        f"{value:.2f}",
        name + (f", ± {spread:.2f} over {seeds} seeds" if spread else ""),
        min,
    )


def _beside(checkpoint: Path) -> dict[str, Any]:
    """What Orbax writes beside a checkpoint's arrays; nothing where it is being deleted, or not as
    we know it.
    """
    try:
        times, leaves, placed = (
            json.loads((checkpoint / name).read_text())
            for name in ("_CHECKPOINT_METADATA", "params/_METADATA", "params/_sharding")
        )
        parameters, mesh = 0, {}
        for key, leaf in leaves["tree_metadata"].items():
            path = re.findall(r"'([^']*)'", key)
            if path[0] == "network":
                sharding = json.loads(placed[base64.b64encode(".".join(path).encode()).decode()])
                mesh = dict(zip(sharding["axis_names"], sharding["shape"], strict=True))
                split = [
                    [axes] if isinstance(axes, str) else axes
                    for axes in sharding["partition_spec"]
                    if axes
                ]
                pieces = math.prod(mesh[axis] for axes in split for axis in axes)
                parameters += pieces * math.prod(
                    leaf["value_metadata"]["write_shape"]
                )  # of one piece
        return {
            "parameters": parameters,
            "mesh": mesh,
            "written": times["commit_timestamp_nsecs"] / 1e9,
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def headlines(run: Record) -> dict[str, Headline]:
    """The numbers that a run is judged by, as far as there are any."""
    train, step = run.config.train, max([0, *run.saved, *(row["step"] for row in run.rows)])
    total = -(-train.images // train.batch_size) if train.images else train.steps
    found = {
        "steps": Headline(
            step, f"{step:,}", f"of {total:,}" if total else f"of {train.epochs:g} epochs"
        )
    }
    last = [
        ("training loss", "loss", ".4f", "", min),
        ("held-out loss", "heldout_loss/.+/mean", ".4f", "", min),
    ]
    last.append(("held-out loss, condition off", "heldout_loss/.+/condition_off", ".4f", "", min))
    if not run.probes:
        where = ", on images held out from the training split"
        last.append(("linear probe in training, %", "probe/.+", ".2f", where, max))
        last.append(("kNN in training, %", "knn/.+", ".2f", where, max))
    for title, pattern, form, where, better in last:
        for name, (steps, values) in run.metrics(pattern).items():
            found[title] = Headline(
                values[-1], f"{values[-1]:{form}}", f"{name}, step {steps[-1]:,}{where}", better
            )
    for probe in [*run.probes.values()][:1]:
        found |= probed(probe)
    for scores in [*run.scores.values()][:1]:
        found["FID" if scores["extractor"]["kind"] == "inception" else "Frechet distance"] = (
            frechet(scores)
        )
    for _, rates in run.metrics(RATE).values():
        rate = statistics.median(rates)
        found["images/s/device"] = Headline(
            rate, f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}", "median", max
        )
    for parameters in {beside["parameters"] for beside in run.saved.values() if beside}:
        found["parameters"] = Headline(parameters, f"{parameters:,}")
    return found


def probed(probe: Mapping[str, Any]) -> dict[str, Headline]:
    """The numbers of a probe: its best row's, and of raw pixels."""
    best, (pixels,) = probe["best"], (row for row in probe["rows"] if row["layer"] == PIXELS)
    chosen = f"{best['metric']}, step {probe['settings']['step']:,}; chosen on {probe['data']['chosen on']}"
    found = {PROBED: Headline(best["linear_test"], f"{best['linear_test']:.2f}", chosen, max)}
    floor = "linear"
    if "knn_test" in best:
        k, row = probe["settings"]["knn"], probe_results.best_of_both(probe)
        where = f"{k}-NN, {row['layer']}, level {row['noise_level']:g}, chosen by both heads"
        found["kNN, %"] = Headline(row["knn_test"], f"{row['knn_test']:.2f}", where, max)
        floor += f"; {k}-NN: {pixels['knn_test']:.2f}"
    return found | {
        "raw pixels, %": Headline(pixels["linear_test"], f"{pixels['linear_test']:.2f}", floor)
    }
