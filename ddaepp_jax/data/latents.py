"""Latents on disk: moments of a data set's images, in ArrayRecord shards with a header.

The folder of a split has ``header.json`` and ``shard-00000.array_record``, ... A record is the
image's label and its moments in the form of ``Encoding``, with a checksum. ``caching`` writes them.
"""

import dataclasses
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.data.encoding import DTYPE, Encoding
from ddaepp_jax.data.normalisation import Normalisation

FORMAT = 1
HEADER = "header.json"
AGAIN = "make the latents again with ddaepp_jax.cache_latents"

_START = struct.Struct("<Ii")  # checksum of what follows it, and the label


@dataclasses.dataclass(frozen=True)
class Header:
    """What the latents of a split are.

    Attributes:
      images: number of images.
      shard_images: images of each shard but the last.
      shard_bytes: size of each shard.
      latent_shape: (h, w, C).
      has_variances: whether moments have the logarithms of variances.
      autoencoder: its "name", "hash" and "kind".
      source: the images: "name", "split", "data_dir", "size" and "fingerprint".
      class_names: names of the classes; empty without labels.
      mean, std: of each channel of the latents.
      normalisation: how latents are brought to unit deviation.
      dtype: type of the numbers.
      format: version of this form.
    """

    images: int
    shard_images: int
    shard_bytes: tuple[int, ...]
    latent_shape: tuple[int, int, int]
    has_variances: bool
    autoencoder: Mapping[str, str]
    source: Mapping[str, Any]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    normalisation: Normalisation
    dtype: str = DTYPE.name
    format: int = FORMAT

    @classmethod
    def read(cls, directory: Path) -> "Header":
        """Reads the header in a split's folder.

        Raises:
          InputError: there is none, or it is damaged, or of another form.
        """
        file = directory / HEADER
        if not file.is_file():
            raise InputError(f"data.data_dir: {directory} has no latents (no {HEADER}); {AGAIN}")
        try:
            facts = json.loads(file.read_text())
            if facts["format"] != FORMAT or facts["dtype"] != DTYPE.name:
                raise ValueError(f"format {facts['format']} of {facts['dtype']}")
            if not facts.get("normalisation"):
                raise ValueError("the statistics of the channels are missing")
            tuples = ("shard_bytes", "latent_shape", "class_names", "mean", "std")
            facts |= {name: tuple(facts[name]) for name in tuples}
            return cls(**facts | {"normalisation": Normalisation.from_dict(facts["normalisation"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"data.data_dir: {file} cannot be used ({first_line(error)}); {AGAIN}"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Returns the header as JSON."""
        return dataclasses.asdict(self)

    @property
    def encoding(self) -> Encoding:
        """The form of the records."""
        origin = {"autoencoder": dict(self.autoencoder), "source": dict(self.source)}
        return Encoding(self.latent_shape, self.has_variances, self.normalisation, origin)


def shard_file(directory: Path, number: int) -> Path:
    """Returns the file of a shard."""
    return directory / f"shard-{number:05}.array_record"


def packed(record: np.ndarray, label: int) -> bytes:
    """Returns the bytes of a record."""
    content = np.int32(label).astype("<i4").tobytes() + record.astype("<f2").tobytes()
    return zlib.crc32(content).to_bytes(4, "little") + content


def unpacked(content: bytes, shape: tuple[int, int, int]) -> tuple[np.ndarray, int]:
    """Returns the record (h, w, 2 M) and the label of bytes.

    Raises:
      ValueError: the bytes are not those that were written.
    """
    checksum, label = _START.unpack_from(content)
    if zlib.crc32(memoryview(content)[4:]) != checksum:
        raise ValueError("its checksum differs")
    return np.frombuffer(content, "<f2", offset=_START.size).reshape(shape), label


def latents(data_dir: Path, split: str) -> Dataset:
    """Opens the latents of a split.

    Args:
      data_dir: folder of the splits' folders.
      split: name of a split's folder.

    Raises:
      InputError: there are no such latents, a shard is missing or has another size than when it was
        written. Reading raises it for a record that was changed.
    """
    directory = data_dir / split
    if not directory.is_dir():
        splits = sorted(path.parent.name for path in data_dir.glob(f"*/{HEADER}"))
        raise InputError(
            f"data.split: {data_dir} has no latents of {split!r}; "
            + (f"use one of {', '.join(splits)}" if splits else f"{AGAIN}")
        )
    header = Header.read(directory)
    records = _Records(directory, header)
    return Dataset(
        name=str(data_dir),
        split=split,
        image_shape=header.latent_shape,
        num_classes=len(header.class_names),
        class_names=header.class_names,
        length=header.images,
        read=records.read,
        dtype=DTYPE,
        encoding=header.encoding,
        folder=data_dir,
        note=f"by the autoencoder {header.autoencoder['name']}",
    )


class _Records:
    """The records of a split, by their numbers; several threads may read at once."""

    def __init__(self, directory: Path, header: Header) -> None:
        self._directory = directory
        self._shape = header.encoding.record_shape
        self._shard_images = header.shard_images
        files = [shard_file(directory, number) for number in range(len(header.shard_bytes))]
        for file, size in zip(files, header.shard_bytes, strict=True):
            if not file.is_file():
                raise InputError(f"data.data_dir: {file} is missing; {AGAIN}")
            if file.stat().st_size != size:
                raise InputError(
                    f"data.data_dir: {file} has {file.stat().st_size} bytes, not {size}; {AGAIN}"
                )
        self._source = _open(files)

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reads records (B, h, w, 2 M) and labels (B,) int32."""
        numbers = [int(index) for index in indices]
        records = np.empty((len(numbers), *self._shape), DTYPE)
        labels = np.empty(len(numbers), np.int32)
        for row, (number, content) in enumerate(zip(numbers, self._contents(numbers), strict=True)):
            try:
                records[row], labels[row] = unpacked(content, self._shape)
            except (ValueError, struct.error) as error:
                raise self._damaged(number, first_line(error)) from None
        return records, labels

    def _contents(self, numbers: Sequence[int]) -> Sequence[bytes]:
        """Returns the bytes of records; the library's error names none of them."""
        try:
            return self._source.__getitems__(numbers)
        except Exception:  # The library raises errors of several types.
            for number in numbers:
                try:
                    self._source.__getitems__([number])
                except Exception as error:
                    reason = first_line(error).partition(" (")[0]  # without the hashes
                    raise self._damaged(number, reason) from None
            raise

    def _damaged(self, number: int, reason: str) -> InputError:
        file = shard_file(self._directory, number // self._shard_images)
        return InputError(f"data.data_dir: {file}: image {number} is damaged ({reason}); {AGAIN}")


def _open(files: Sequence[Path]) -> Any:
    """Opens shards for random access.

    Raises:
      InputError: a shard is damaged.
    """
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    try:
        return ArrayRecordDataSource([str(file) for file in files])
    except Exception as error:  # The library raises errors of several types.
        raise InputError(
            f"data.data_dir: {files[0].parent}: its shards cannot be read ({first_line(error)}); "
            f"{AGAIN}"
        ) from None
