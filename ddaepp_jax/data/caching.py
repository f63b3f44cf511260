"""Writes the latents of a data set in the form that ``latents`` reads.

A shard is a function of the images, the autoencoder and the number of devices of a process. A call
that was stopped goes on after its last whole shard; several processes share the shards.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ddaepp_jax.base.dispatch import progress_bar
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.files import write_json
from ddaepp_jax.base.lock import NAME as LOCK
from ddaepp_jax.base.lock import locked
from ddaepp_jax.base.processes import entered_by_first, from_first, in_first, together
from ddaepp_jax.base.stop import Stop
from ddaepp_jax.base.unfinished import partial_directory
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.data.encoding import HIGHEST, LOWEST, Encoding
from ddaepp_jax.data.latents import HEADER, Header, packed, shard_file
from ddaepp_jax.data.normalisation import Normalisation

SHARD_IMAGES = 1024
OVERHEAD = 48  # bytes of a record beside its numbers

Encode = Callable[[np.ndarray], np.ndarray]  # uint8 images (B, H, W, C) -> moments (B, h, w, M)


class Job(NamedTuple):
    """What is cached, and by what.

    Attributes:
      data: the images.
      encode: computes moments on the devices of this process.
      encoding: the form of the records; its normalisation does not matter yet.
      normalisation: how latents are brought to unit deviation; None: by their statistics.
      batch_size: images that are encoded at once.
      autoencoder, source: see ``Header``.
    """

    data: Dataset
    encode: Encode
    encoding: Encoding
    normalisation: Normalisation | None
    batch_size: int
    autoencoder: Mapping[str, str]
    source: Mapping[str, Any]

    @property
    def nbytes(self) -> int:
        """Size of all records in bytes."""
        return len(self.data) * (self.encoding.nbytes + OVERHEAD)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-len(self.data) // SHARD_IMAGES)


def cache(job: Job, directory: Path) -> Header:
    """Writes latents to a directory, and returns their header; finished ones are kept.

    All processes call it.

    Raises:
      InputError: the directory holds other latents or too little space, or another program writes
        there.
      Stopped: a signal asked to stop; the same call goes on.
    """
    if header := from_first(lambda: _finished(job, directory)):
        return header
    identity = {"autoencoder": dict(job.autoencoder), "source": dict(job.source)}
    identity |= {"batch_size": job.batch_size, "devices": jax.local_device_count()}
    partial = from_first(lambda: partial_directory(directory, identity))
    in_first(lambda: _check_space(job, partial))
    with entered_by_first(locked(partial, "wait for it, or give another --out")):
        together(lambda: _write_shards(job, partial))
        header = from_first(lambda: _write_header(job, partial))
        in_first(lambda: _publish(partial, directory))
    return header


def _finished(job: Job, directory: Path) -> Header | None:
    """Returns the header of latents that are there; they have to be those of the job."""
    if not directory.exists():
        return None
    header = Header.read(directory)
    ours = (dict(job.autoencoder), dict(job.source))
    theirs = (dict(header.autoencoder), dict(header.source))
    for name, one, other in zip(("autoencoder", "source"), ours, theirs, strict=True):
        fields = [field for field in one if field != "name" and one[field] != other.get(field)]
        if fields:
            raise InputError(
                f"--out: {directory} holds latents with another {name} "
                f"({fields[0]}: {other.get(fields[0])}, not {one[fields[0]]}); give another"
            )
    return header


def _check_space(job: Job, partial: Path) -> None:
    """Refuses a disk on which the shards that are missing have no room."""
    there = sum(file.stat().st_size for file in partial.glob("shard-*.array_record"))
    free = shutil.disk_usage(partial).free
    if job.nbytes - there > free:
        raise InputError(
            f"--out: {partial} has {free / 2**30:.2f} GiB free, and the latents take "
            f"{(job.nbytes - there) / 2**30:.2f} GiB; free space, or give another"
        )


def _write_shards(job: Job, directory: Path) -> None:
    """Writes the shards of this process that are missing."""
    own = range(jax.process_index(), job.shards, jax.process_count())
    missing = [number for number in own if not _facts_file(directory, number).exists()]
    rows = [_rows(job, number) for number in own]
    total = sum(map(len, rows))
    done = total - sum(len(_rows(job, number)) for number in missing)
    title = f"latents of {job.data.name} {job.data.split}"
    with Stop() as stop, progress_bar(total, "image", title, initial=done) as bar:
        for number in missing:
            _write_shard(job, directory, number, lambda count: (bar.update(count), stop.check()))


def _write_shard(job: Job, directory: Path, number: int, progress: Callable[[int], Any]) -> None:
    """Writes a shard and, when it is whole, the file of its facts."""
    from array_record.python.array_record_module import ArrayRecordWriter

    file = shard_file(directory, number)
    partial = file.with_suffix(".partial")
    writer = ArrayRecordWriter(str(partial), "group_size:1,uncompressed")
    sums = np.zeros((2, job.encoding.latent_shape[-1]))
    try:
        for records, labels in _records(job, _rows(job, number), progress):
            for record, label in zip(records, labels, strict=True):
                writer.write(packed(record, label))
            sums += _sums(records, job.encoding)
    finally:
        writer.close()
    with partial.open("rb") as content:
        os.fsync(content.fileno())
    os.replace(partial, file)
    write_json(
        _facts_file(directory, number), {"bytes": file.stat().st_size, "sums": sums.tolist()}
    )


def _records(
    job: Job, rows: np.ndarray, progress: Callable[[int], Any]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the records and labels of batches."""
    for start in range(0, len(rows), job.batch_size):
        images, labels = job.data.gather(rows[start : start + job.batch_size])
        yield job.encoding.record(job.encode(images), job.encode(images[:, :, ::-1])), labels
        progress(len(labels))


def _rows(job: Job, number: int) -> np.ndarray:
    """Returns the numbers of a shard's images."""
    return np.arange(number * SHARD_IMAGES, min((number + 1) * SHARD_IMAGES, len(job.data)))


def _facts_file(directory: Path, number: int) -> Path:
    return shard_file(directory, number).with_suffix(".json")


def _sums(records: np.ndarray, encoding: Encoding) -> np.ndarray:
    """Returns the sums (2, C) of the latents and their squares over images, mirrors and places."""
    channels = encoding.latent_shape[-1]
    halves = np.concatenate(np.split(records.astype(np.float64), 2, axis=-1))
    means = halves[..., :channels].reshape(-1, channels)
    squares = np.square(means)
    if encoding.has_variances:
        log_variances = halves[..., channels:].reshape(-1, channels)
        squares = squares + np.exp(np.clip(log_variances, LOWEST, HIGHEST))
    return np.stack([means.sum(axis=0), squares.sum(axis=0)])


def _write_header(job: Job, directory: Path) -> Header:
    """Writes the header of shards that are whole."""
    facts = [json.loads(_facts_file(directory, n).read_text()) for n in range(job.shards)]
    height, width, _ = job.encoding.latent_shape
    count = 2 * len(job.data) * height * width
    mean, square = np.sum([fact["sums"] for fact in facts], axis=0) / count
    std = np.sqrt(np.maximum(square - np.square(mean), 1e-12))
    measured = Normalisation.of(mean, std)
    header = Header(
        images=len(job.data),
        shard_images=SHARD_IMAGES,
        shard_bytes=tuple(fact["bytes"] for fact in facts),
        latent_shape=job.encoding.latent_shape,
        has_variances=job.encoding.has_variances,
        autoencoder=dict(job.autoencoder),
        source=dict(job.source),
        class_names=job.data.class_names,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        normalisation=job.normalisation or measured,
    )
    write_json(directory / HEADER, header.to_dict())
    return header


def _publish(partial: Path, directory: Path) -> None:
    """Gives whole latents their name."""
    for file in [*partial.glob("shard-*.json"), partial / "settings.json"]:
        file.unlink()
    partial.rename(directory)
    (directory / LOCK).unlink(missing_ok=True)


def seconds(job: Job) -> float:
    """Returns about how many seconds a job takes, by the second of two batches."""
    rows = np.arange(min(job.batch_size, len(job.data)))
    for _ in range(2):
        start = time.perf_counter()
        for _ in _records(job, rows, lambda count: None):
            pass
        each = (time.perf_counter() - start) / len(rows)
    return each * len(job.data) / jax.process_count()
