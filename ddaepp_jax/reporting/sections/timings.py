"""The section of speed, durations, devices and software."""

import math
import statistics
import time
from collections.abc import Iterator

import numpy as np

from ddaepp_jax.reporting import html
from ddaepp_jax.reporting.record import RATE, Record

Line = tuple[str, str]  # name and value of a measurement


def of_run(run: Record) -> str:
    """Returns a table of the speeds and times in the run's files."""
    lines = [*_speeds(run), *_training(run), *_checkpoints(run), *_probes(run)]
    lines.append(("software", run.version or "no version.txt"))
    return html.table([], [[html.escape(title), html.escape(text)] for title, text in lines])


def _speeds(run: Record) -> Iterator[Line]:
    for name, title in ((RATE, "images/s/device"), ("mfu", "MFU")):
        for _, values in run.metrics(name).values():
            yield title, f"median {statistics.median(values):,.4g}, last {values[-1]:,.4g}"


def _training(run: Record) -> Iterator[Line]:
    """Yields the duration of the training steps and the device mesh of the newest checkpoint."""
    readable = [checkpoint for checkpoint in run.checkpoints.values() if checkpoint]
    if not readable:
        return
    mesh = readable[-1].mesh
    for steps, rates in run.metrics(RATE).values():
        images = np.diff(steps, prepend=0) * run.config["train"]["batch_size"]
        measured = np.asarray(rates) > 0
        each = images[measured] / np.asarray(rates)[measured]
        seconds = float(np.sum(each)) / math.prod(mesh.values())
        yield "training", f"{_duration(seconds)}, without evaluation, checkpoints and compilation"
    yield "devices", ", ".join(f"{axis} {size}" for axis, size in mesh.items())


def _checkpoints(run: Record) -> Iterator[Line]:
    for step, checkpoint in run.checkpoints.items():
        if checkpoint:
            written = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(checkpoint.written))
            yield f"checkpoint {step:,}", f"written {written} UTC"


def _probes(run: Record) -> Iterator[Line]:
    for name, probe in run.probes.items():
        seconds = probe["seconds"]
        parts = [
            f"{'pixels' if level == 'None' else f'level {level}'} {_duration(duration)}"
            for level, duration in seconds.items()
        ]
        yield name, f"{_duration(sum(seconds.values()))}: {', '.join(parts)}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
