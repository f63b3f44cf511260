"""Probes a trained network: how much its features know, by layer and noise level."""

import csv
import io
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.files import replace
from ddaepp_jax.base.finite import check_finite
from ddaepp_jax.base.numbers import finite
from ddaepp_jax.base.processes import from_first, in_first, together
from ddaepp_jax.base.results import Results, refuse_other
from ddaepp_jax.base.unfinished import partial_directory, workspace
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.probing.diagnostics import PIXELS
from ddaepp_jax.probing.level import probe_level
from ddaepp_jax.probing.settings import Settings, TrainedNetwork
from ddaepp_jax.probing.splits import Splits

MEND = "remove it or give another --out"


def probe(
    trained: TrainedNetwork,
    train: Dataset,
    test: Dataset,
    settings: Settings,
    out: Path,
    device_bytes: int,
) -> dict[str, Any]:
    """Probes a trained network at each noise level, and at raw pixels.

    ``out``.json and ``out``.csv are written after every level, and a later call continues them.
    Levels of earlier calls are kept beside those of this one. All processes call it, and process 0
    reads and writes the files.

    Args:
      trained: the network.
      train: the training split.
      test: the test split.
      settings: how the network is probed.
      out: path of the results, without a suffix.
      device_bytes: most bytes of features that are on a device at once; data sets up to this size
        are read into memory.

    Returns:
      The content of the JSON: "settings"; "levels"; "rows", one for each layer and level, with
      accuracies in percent and the values of ``diagnostics.diagnose``; "best", the row that is
      chosen; "seconds" by level.

    Raises:
      InputError: the data have no labels or another shape, a weight or a feature is not finite,
        ``out`` holds a probe with other settings, or another process writes there.
      OSError: a file cannot be written.
    """
    check_finite(
        trained.params, f"{trained.run}, step {trained.weights['step']}", "give another --step"
    )
    images = _splits(trained, train, test, settings, device_bytes)
    for line in _warnings(settings, images):
        print(f"warning: {line}", flush=True)
    fingerprints = {"weights": trained.weights["weights"], **images.fingerprints}
    results = Results(
        out.with_name(f"{out.name}.json"),
        {**trained.weights, **images.fingerprints, **settings.identity},
        "a probe",
        under="settings",
        modern=lambda identity: {**fingerprints, **identity},
    )
    with workspace(out.with_name(f"{out.name}-partial"), "wait for it or give another --out"):
        rows, seconds = from_first(lambda: _finished(results, images))
        unfinished = from_first(lambda: partial_directory(out, results.identity))
        for level in (None, *settings.levels):  # None: raw pixels
            directory = unfinished / f"level-{level}"
            if str(level) not in seconds:
                start = time.perf_counter()
                rows += probe_level(trained, settings, images, level, directory, device_bytes)
                seconds[str(level)] = round(time.perf_counter() - start, 2)
            content = {
                "run": trained.run,
                "protocol": settings.tag,
                "data": images.described,
                "settings": results.identity,
                "levels": sorted({row["noise_level"] for row in rows} - {None}),
                "best": best_row(rows, settings, trained.process.unit),
                "seconds": seconds,
                "rows": rows,
            }
            in_first(partial(_write, out, results, content, directory))
    return content


def _finished(results: Results, images: Splits) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Reads the rows and the seconds of the finished levels."""
    content = results.read("rows", "seconds")
    if content is None:
        return [], {}
    rows, seconds = content["rows"], content["seconds"]
    if not _fit_together(rows, seconds, results.identity["layers"]):
        raise InputError(f"{results.file}: its rows are not those of its levels; {MEND}")
    if any("spread" not in row for row in rows):
        raise InputError(
            f"{results.file}: holds a probe of an older version, without spread and rank; {MEND}"
        )
    if "weights" not in content["settings"]:
        _check_older(results.file, content.get("data"), images.described)
    return rows, seconds


def _fit_together(rows: Any, seconds: Any, layers: Sequence[str]) -> bool:
    """Whether there is one row for each layer and level, all with the same columns of numbers."""
    try:
        cells = sorted((str(row["noise_level"]), row["layer"]) for row in rows)
        columns = {tuple(row) for row in rows}
        for row in rows:
            for name in row.keys() - {"noise_level", "layer"}:
                finite(name, row[name])
        levels = {level: [PIXELS] if level == "None" else layers for level in seconds}
    except (TypeError, KeyError, AttributeError, InputError):
        return False
    expected = sorted((level, layer) for level, own in levels.items() for layer in own)
    return cells == expected and len(columns) == 1


def _check_older(file: Path, old: Any, described: Mapping[str, str]) -> None:
    """Refuses a file of an older version if its description of the images is another.

    Such a file has no fingerprints of the weights and the images.
    """
    if old != described:
        old = old if isinstance(old, Mapping) else {}
        differences = [
            f"{name}: {old.get(name)} -> {text}"
            for name, text in described.items()
            if old.get(name) != text
        ]
        refuse_other(file, "a probe", differences, MEND)
    print(
        f"warning: {file}: an older version wrote it without fingerprints; its rows are taken to "
        "be of these weights and images",
        flush=True,
    )


def _splits(
    trained: TrainedNetwork, train: Dataset, test: Dataset, settings: Settings, device_bytes: int
) -> Splits:
    """Checks the images, and loads them into memory if they fit."""
    if not train.num_classes:
        raise InputError(
            f"data.name: {train.name} has no labels, which a probe needs; "
            "use a data set with labels"
        )
    for data in (train, test):
        if data.image_shape != trained.image_shape:
            raise InputError(
                f"data.data_dir: images of {data.split} have shape {data.image_shape}, but the run "
                f"was trained on {trained.image_shape}; give its data"
            )
    if train.nbytes + test.nbytes <= device_bytes:
        train, test = together(lambda: (train.resident(), test.resident()))
    return Splits(train, test, settings.held_out, settings.seed)


def _warnings(settings: Settings, images: Splits) -> Iterator[str]:
    """Yields lines about what a probe of these images is not."""
    bank = len(images.parts["train"])
    if settings.knn > bank:
        yield f"knn: {settings.knn} is more than the {bank} images there are; all of them vote"


def best_row(
    rows: Sequence[Mapping[str, Any]], settings: Settings, unit: str
) -> dict[str, Any] | None:
    """Returns the row that the linear heads choose, with its metric's name.

    Returns None if all rows are of raw pixels. ``unit`` is the process's unit of noise.
    """
    inner = [row for row in rows if row["layer"] != PIXELS]
    if not inner:
        return None
    chosen_by = "linear_held_out" if settings.held_out else "linear_test"
    best = max(inner, key=lambda row: row[chosen_by])
    place = f"{best['layer']}/{unit}{best['noise_level']:g}"
    return {"metric": f"linear_probe/{place}/{settings.tag}", "chosen_by": chosen_by, **best}


def _write(out: Path, results: Results, content: Mapping[str, Any], directory: Path) -> None:
    """Writes the results, and removes the directory of a level's unfinished work."""
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, list(content["rows"][0]))
    writer.writeheader()
    writer.writerows(content["rows"])
    replace(out.with_name(f"{out.name}.csv"), table.getvalue().encode())
    results.write(content)
    shutil.rmtree(directory, ignore_errors=True)
