"""Reads a run directory, also while the run trains."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.reporting import checkpoints, forms, headlines, probes
from ddaepp_jax.reporting.checkpoints import Checkpoint
from ddaepp_jax.reporting.panels import Panel
from ddaepp_jax.reporting.record import Record
from ddaepp_jax.reporting.sections import scores as scores_section
from ddaepp_jax.training import rows

PNG_BEGIN = b"\x89PNG"
PNG_END = b"IEND"  # The last chunk of a PNG file; a checksum of 4 bytes follows.

LeaveOut = Callable[[str], None]  # takes a line about a file that is left out

# Raised by a file whose entries have the right types, but do not fit together.
MISFITS = (ValueError, LookupError, TypeError, ArithmeticError, StopIteration)


def read(workdir: Path, name: str) -> Record:
    """Reads a run directory, and leaves out what is damaged or what training is still writing.

    Args:
      workdir: the run directory.
      name: the run's name on the page.

    Raises:
      InputError: ``workdir`` is not a run directory, or its config is damaged.
    """
    config = _config(workdir)
    left_out: list[str] = []
    pictures = _pictures(workdir / "samples", left_out.append)
    return Record(
        path=workdir,
        name=name,
        config=config,
        defaults=_defaults(workdir / "defaults.json", left_out.append),
        panels=_panels(workdir / "panels.json", left_out.append),
        version=_content(workdir / "version.txt", left_out.append).decode(errors="replace").strip(),
        rows=_rows(workdir / "metrics.jsonl", left_out.append),
        checkpoints=_checkpoints(workdir / "checkpoints"),
        grids={int(stem): png for stem, png in pictures.items() if stem.isdecimal()},
        drawn={stem: png for stem, png in pictures.items() if not stem.isdecimal()},
        probes=_probes(workdir / "probe", left_out.append),
        scores=_scores(workdir / "fid", left_out.append),
        left_out=tuple(left_out),
    )


def _content(file: Path, leave_out: LeaveOut) -> bytes:
    """Returns a file's bytes; none if there is no such file, or if it cannot be read."""
    if file.exists() and not file.is_file():  # A pipe would never end.
        leave_out(f"{file}: is not a file; remove it")
        return b""
    try:
        return file.read_bytes() if file.exists() else b""
    except OSError as error:
        leave_out(f"{file}: cannot be read ({error.strerror}); make it readable")
        return b""


def _config(workdir: Path) -> dict[str, Any]:
    """Reads the config, without which there is no page.

    Raises:
      InputError: there is no config, or it is damaged.
    """
    file = workdir / "config.json"
    if file.exists() and not file.is_file():
        raise InputError(f"{file}: is not a file; {_mend(workdir)}")
    if not file.exists():
        raise InputError(f"{workdir}: not a run directory (no config.json); {_mend(workdir)}")
    try:
        text = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); make it readable") from None
    mistake = forms.mistake(forms.CONFIG, text)
    config = {} if mistake else json.loads(text)
    if not mistake and not any(config["train"][name] for name in ("steps", "epochs", "images")):
        mistake = "train.steps: is not set, and neither are train.epochs and train.images"
    if mistake:
        raise InputError(f"{file}: not the config of a run ({mistake}); give a run directory")
    return config


def _mend(workdir: Path) -> str:
    """Says what to give instead of a directory that is no run directory."""
    inner = sorted(workdir.glob("*/config.json"))
    if inner:
        return f"give one of the runs in it, e.g. {inner[0].parent}"
    return "give the --workdir of a training run"


def _defaults(file: Path, leave_out: LeaveOut) -> dict[str, Any] | None:
    """Returns the config's defaults; None for runs of versions that did not record them."""
    text = _valid(file, forms.DEFAULTS, "the defaults of a config", leave_out)
    return None if text is None else json.loads(text)


def _panels(file: Path, leave_out: LeaveOut) -> tuple[Panel, ...]:
    """Returns the panels that the run's evaluators declare; none for versions without the file."""
    text = _valid(file, forms.PANELS, "the panels of a report", leave_out)
    return () if text is None else tuple(forms.PANELS.validate_json(text))


def _valid(file: Path, form: TypeAdapter, noun: str, leave_out: LeaveOut) -> bytes | None:
    """Returns JSON that has a form; None if there is no such file, or if it is left out."""
    if not file.exists():
        return None
    text = _content(file, leave_out)
    if not (text or file.is_file()):  # It could not be read.
        return None
    mistake = forms.mistake(form, text)
    if mistake:
        leave_out(f"{file}: not {noun} ({mistake}); remove the file")
        return None
    return text


def _pictures(directory: Path, leave_out: LeaveOut) -> dict[str, bytes]:
    """Returns the complete PNG files of a directory by name."""
    contents = {file.stem: _content(file, leave_out) for file in sorted(directory.glob("*.png"))}
    return {
        stem: content
        for stem, content in contents.items()
        if content.startswith(PNG_BEGIN) and content[-8:-4] == PNG_END
    }


def _checkpoints(directory: Path) -> dict[int, Checkpoint | None]:
    """Returns the checkpoints by step, in order."""
    steps = {int(entry.name): entry for entry in directory.glob("*") if entry.name.isdecimal()}
    return {step: checkpoints.read(steps[step]) for step in sorted(steps)}


def _rows(file: Path, leave_out: LeaveOut) -> list[dict[str, float]]:
    """Returns the rows of metrics; a row that training is writing is left out without a word."""
    good = []
    bad = []
    for number, line in enumerate(_content(file, leave_out).splitlines(keepends=True), 1):
        try:
            good.append(rows.parse(line))
        except ValueError:
            if not rows.was_cut_off(line):
                bad.append(number)
    if len(bad) == 1:
        leave_out(f"{file}: line {bad[0]} is not a row of metrics; remove the line")
    elif bad:
        leave_out(
            f"{file}: {len(bad):,} lines are no rows of metrics, the first is line {bad[0]}; "
            "remove these lines"
        )
    return good


def _results(
    directory: Path, form: TypeAdapter, noun: str, leave_out: LeaveOut
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yields the JSON files of a directory with their content."""
    for file in sorted(directory.glob("*.json")):
        if file.name != "best.json":
            text = _valid(file, form, noun, leave_out)
            if text is not None:
                yield file, json.loads(text)


def _probes(directory: Path, leave_out: LeaveOut) -> dict[str, dict[str, Any]]:
    """Returns the probes' results by name, in the order of ``Record.probes``."""
    rated = []
    for file, probe in _results(directory, forms.PROBE, "a probe's results", leave_out):
        best = probe["best"]
        if not best:  # No noise level is finished yet.
            continue
        try:
            rating = (best["chosen_by"] == "linear_held_out", best[best["chosen_by"]])
            # The page reads the same entries as these.
            probes.table(probe)
            probes.curves(probe)
            headlines.of_probe(probe)
        except MISFITS:
            leave_out(f"{file}: not a probe's results (its rows do not fit); remove the file")
            continue
        unfinished = file.with_name(f"{file.stem}-partial").is_dir()
        rated.append((rating, f"{file.stem} (under way)" if unfinished else file.stem, probe))
    rated.sort(key=lambda each: each[0], reverse=True)
    return {name: probe for _, name, probe in rated}


def _scores(directory: Path, leave_out: LeaveOut) -> dict[str, dict[str, Any]]:
    """Returns the scores of samples by name, in the order of ``Record.scores``."""
    ordered = []
    for file, scores in _results(directory, forms.SCORES, "scores of a run", leave_out):
        try:
            headlines.of_scores(scores)
            scores_section.of_scores(file.stem, scores)
        except MISFITS:
            leave_out(f"{file}: not scores of a run (its entries do not fit); remove the file")
            continue
        ordered.append(((-scores["step"], -scores["n"]), file.stem, scores))
    ordered.sort(key=lambda each: each[0])
    return {name: scores for _, name, scores in ordered}
