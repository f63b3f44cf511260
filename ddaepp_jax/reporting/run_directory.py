"""Reads a run directory, also while the run trains."""

import json
from pathlib import Path
from typing import Any

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.reporting import checkpoints, headlines, probes
from ddaepp_jax.reporting.checkpoints import Checkpoint
from ddaepp_jax.reporting.panels import Panel
from ddaepp_jax.reporting.record import Record

READ = (  # The fields of the config that every page needs.
    ("data", "name"),
    ("model", "name"),
    ("train", "batch_size"),
    ("train", "epochs"),
    ("train", "images"),
    ("train", "steps"),
)
PNG_END = b"IEND"  # The last chunk of a PNG file; a checksum of 4 bytes follows.


def read(workdir: Path, name: str) -> Record:
    """Reads a run directory, and leaves out files and lines that training is still writing.

    Args:
      workdir: the run directory.
      name: the run's name on the page.

    Raises:
      InputError: ``workdir`` is not a run directory, or a file in it is damaged.
    """
    if not (workdir / "config.json").is_file():
        raise InputError(
            f"{workdir}: not a run directory (no config.json); give the --workdir of a training run"
        )
    pictures = _pictures(workdir / "samples")
    return Record(
        path=workdir,
        name=name,
        config=_config(workdir / "config.json"),
        defaults=_defaults(workdir / "defaults.json"),
        panels=_panels(workdir / "panels.json"),
        version=_text(workdir / "version.txt").strip(),
        rows=_rows(workdir / "metrics.jsonl"),
        checkpoints=_checkpoints(workdir / "checkpoints"),
        grids={int(stem): png for stem, png in pictures.items() if stem.isdigit()},
        drawn={stem: png for stem, png in pictures.items() if not stem.isdigit()},
        probes=_probes(workdir / "probe"),
        scores=_scores(workdir / "fid"),
    )


def _text(file: Path) -> str:
    """Returns a file's text; "" if there is no such file."""
    try:
        return file.read_text(errors="replace") if file.exists() else ""
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); make it readable") from None


def _config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(_text(file))
        missing = [f"{group}.{name}" for group, name in READ if name not in config.get(group, ())]
    except (ValueError, AttributeError, TypeError):
        raise InputError(f"{file}: not the config of a run; give a run directory") from None
    if missing:
        raise InputError(
            f"{file}: not the config of a run (it has no {missing[0]}); give a run directory"
        )
    return config


def _defaults(file: Path) -> dict[str, Any] | None:
    """Returns the config's defaults; None for runs of versions that did not record them."""
    if not file.exists():
        return None
    try:
        defaults = json.loads(_text(file))
    except ValueError:
        defaults = None
    if not isinstance(defaults, dict):
        raise InputError(f"{file}: not the defaults of a config; remove it")
    return defaults


def _panels(file: Path) -> tuple[Panel, ...]:
    """Returns the panels that the run's evaluators declare; none for versions without the file."""
    if not file.exists():
        return ()
    try:
        return tuple(Panel(**panel) for panel in json.loads(_text(file)))
    except (ValueError, TypeError):
        raise InputError(f"{file}: not the panels of a report; remove it") from None


def _pictures(directory: Path) -> dict[str, bytes]:
    """Returns the complete PNG files of a directory by name."""
    contents = {file.stem: file.read_bytes() for file in sorted(directory.glob("*.png"))}
    return {stem: content for stem, content in contents.items() if content[-8:-4] == PNG_END}


def _checkpoints(directory: Path) -> dict[int, Checkpoint | None]:
    """Returns the checkpoints by step, in order."""
    steps = {int(entry.name): entry for entry in directory.glob("*") if entry.name.isdigit()}
    return {step: checkpoints.read(steps[step]) for step in sorted(steps)}


def _rows(file: Path) -> list[dict[str, float]]:
    rows = []
    for number, line in enumerate(_text(file).splitlines(keepends=True), 1):
        if not line.endswith("\n"):  # Training is writing it.
            break
        try:
            row = json.loads(line)
            whole = isinstance(row["step"], int)
            if not whole or not all(isinstance(value, int | float) for value in row.values()):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{file}: line {number} is not a row of metrics; remove it") from None
        rows.append(row)
    return rows


def _probes(directory: Path) -> dict[str, dict[str, Any]]:
    """Returns the probes' results by name, in the order of ``Record.probes``."""
    rated = []
    for file in sorted(set(directory.glob("*.json")) - {directory / "best.json"}):
        try:
            probe = json.loads(_text(file))
            best = probe["best"]
            if not best:  # No noise level is finished yet.
                continue
            rating = (best["chosen_by"] == "linear_held_out", best[best["chosen_by"]])
            # The page reads the same entries as these two; a file that lacks one is refused here.
            probes.grid(probe, "linear_test")
            headlines.of_probe(probe)
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{file}: not a probe's results; remove it") from None
        unfinished = file.with_name(f"{file.stem}-partial").is_dir()
        rated.append((rating, f"{file.stem} (under way)" if unfinished else file.stem, probe))
    rated.sort(key=lambda each: each[0], reverse=True)
    return {name: probe for _, name, probe in rated}


def _scores(directory: Path) -> dict[str, dict[str, Any]]:
    """Returns the scores of samples by name, in the order of ``Record.scores``."""
    ordered = []
    for file in sorted(directory.glob("*.json")):
        try:
            scores = json.loads(_text(file))
            headlines.of_scores(scores)
            order = (-scores["step"], -scores["n"])
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
            raise InputError(f"{file}: not scores of a run; remove it") from None
        ordered.append((order, file.stem, scores))
    ordered.sort(key=lambda each: each[0])
    return {name: scores for _, name, scores in ordered}
