"""Probes a trained network: how much its features know, by layer and noise level."""

import csv
import io
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.files import replace
from ddaepp_jax.base.results import Results, partial_directory
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.probing.diagnostics import PIXELS
from ddaepp_jax.probing.level import probe_level
from ddaepp_jax.probing.settings import Settings, TrainedNetwork
from ddaepp_jax.probing.splits import Splits


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
    Levels of earlier calls are kept beside those of this one.

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
      InputError: the data have no labels or another shape, or ``out`` holds a probe with other
        settings.
    """
    results = Results(
        out.with_name(f"{out.name}.json"),
        {**trained.weights, **settings.identity},
        "a probe",
        under="settings",
    )
    rows, seconds = _finished(results)
    images = _splits(trained, train, test, settings, device_bytes)
    partial = partial_directory(out, results.identity)
    for level in (None, *settings.levels):  # None: raw pixels
        if str(level) not in seconds:
            start = time.perf_counter()
            directory = partial / f"level-{level}"
            rows += probe_level(trained, settings, images, level, directory, device_bytes)
            shutil.rmtree(directory)
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
        _write_csv(out.with_name(f"{out.name}.csv"), rows)
        results.write(content)
    shutil.rmtree(partial)
    return content


def _finished(results: Results) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Reads the rows and the seconds of the finished levels."""
    content = results.read("rows", "seconds")
    if content is None:
        return [], {}
    if any("spread" not in row for row in content["rows"]):
        raise InputError(
            f"{results.file}: holds a probe of an older version, without spread and rank; "
            "remove it or give another --out"
        )
    return content["rows"], content["seconds"]


def _splits(
    trained: TrainedNetwork, train: Dataset, test: Dataset, settings: Settings, device_bytes: int
) -> Splits:
    """Checks the images, and loads them into memory if they fit."""
    if not train.num_classes:
        raise InputError(
            f"data.name: {train.name} has no labels, which a probe needs; "
            "use a data set with labels"
        )
    if train.image_shape != trained.image_shape:
        raise InputError(
            f"data.data_dir: images have shape {train.image_shape}, but the run was trained on "
            f"{trained.image_shape}; give its data"
        )
    if train.nbytes + test.nbytes <= device_bytes:
        train = train.resident()
        test = test.resident()
    return Splits(train, test, settings.held_out, settings.seed)


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


def _write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    replace(file, table.getvalue().encode())
