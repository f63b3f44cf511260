"""LightningDiT's latents on disk: safetensors shards, and the statistics of their channels.

A shard has the tensors "latents" and "latents_flip" (N, C, h, w), of images and of their mirror
images, and "labels" (N,). Shards are mapped into memory, so a read touches only its records. The
PyTorch file ``STATISTICS`` has the "mean" and "std" (1, C, 1, 1) by which latents are normalised.

Sources: https://github.com/hustvl/LightningDiT (datasets/img_latent_dataset.py);
https://github.com/huggingface/safetensors (the form of the shards).
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.data.encoding import DTYPE, Encoding
from ddaepp_jax.data.normalisation import Normalisation

STATISTICS = "latents_stats.pt"
MOST_CLASSES = 10**6

_TENSORS = ("latents", "latents_flip", "labels")
_TRAIN = "train"
_TYPES = {"F16": "<f2", "BF16": jnp.bfloat16, "F32": "<f4", "I32": "<i4", "I64": "<i8"}


def lightningdit_cache(data_dir: Path, split: str) -> Dataset | None:
    """Opens a split of LightningDiT's latents; None if data_dir has none.

    The shards are data_dir/split/*.safetensors. Those in data_dir itself are the split "train". The
    statistics are those of the split "train", and so is the number of classes, which is the largest
    label plus one; without that split, both are this split's own. The autoencoder is not known.

    Args:
      data_dir: the folder.
      split: name of the split.

    Raises:
      InputError: there is no such split; the statistics are missing, or PyTorch, which reads them;
        or a file is damaged or of another form. Reading raises it for latents that float16 does not
        hold.
    """
    directory, train = _directory(data_dir, split), _directory(data_dir, _TRAIN)
    if directory is None and train == data_dir:
        raise InputError(
            f"data.split: {data_dir} holds the latents of one split, {_TRAIN!r}; use it, or put "
            f"those of {split!r} into {data_dir / split}"
        )
    if directory is None:
        return None
    shards = _shards(directory)
    labels = np.concatenate([shard.labels for shard in shards]).astype(np.int32)
    reference = train or directory
    of = shards if reference == directory else _shards(reference)
    class_names = tuple(map(str, range(1 + max(int(shard.labels.max()) for shard in of))))
    channels, height, width = shards[0].latents.shape[1:]
    normalisation = _normalisation(reference, channels)
    origin = {"autoencoder": {"name": ""}}
    encoding = Encoding((height, width, channels), False, normalisation, origin)
    ends = np.cumsum([len(shard.labels) for shard in shards])

    def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        records = np.empty((len(indices), *encoding.record_shape), DTYPE)
        numbers = np.searchsorted(ends, indices, side="right")
        for number in np.unique(numbers):
            rows, shard = np.flatnonzero(numbers == number), shards[number]
            places = indices[rows] - (ends[number] - len(shard.labels))
            pair = (each[places].transpose(0, 2, 3, 1) for each in shard[1:3])
            with np.errstate(over="ignore"):
                records[rows] = encoding.record(*pair)
            finite = np.isfinite(records[rows]).all(axis=(1, 2, 3))
            if not finite.all():
                raise InputError(
                    f"data.data_dir: {shard.file}: latents {places[~finite][0]} are not finite in "
                    f"{DTYPE}; make the file again"
                )
        return records, labels[indices]

    return Dataset(
        name=str(data_dir),
        split=split,
        image_shape=encoding.latent_shape,
        num_classes=len(class_names),
        class_names=class_names,
        length=len(labels),
        read=read,
        dtype=DTYPE,
        encoding=encoding,
        folder=data_dir,
        note=f"by LightningDiT, from {directory}",
    )


def _directory(data_dir: Path, split: str) -> Path | None:
    """Returns the folder of a split's shards; None if there are none."""
    places = [data_dir / split, data_dir] if split == _TRAIN else [data_dir / split]
    return next((place for place in places if any(place.glob("*.safetensors"))), None)


# ---- Shards


class _Shard(NamedTuple):
    """The tensors of a file, in the order of ``_TENSORS``."""

    file: Path
    latents: np.ndarray
    mirrored: np.ndarray
    labels: np.ndarray


def _shards(directory: Path) -> list[_Shard]:
    """Maps the shards of a folder, in sorted order."""
    shards = [_shard(file) for file in sorted(directory.glob("*.safetensors"))]
    shape = shards[0].latents.shape[1:]
    for shard in shards:
        if shard.latents.shape[1:] != shape:
            raise InputError(
                f"data.data_dir: {shard.file} has latents {shard.latents.shape[1:]}, and "
                f"{shards[0].file} {shape}; move those that are not meant elsewhere"
            )
    return shards


def _shard(file: Path) -> _Shard:
    """Maps the tensors of a file."""
    try:
        with file.open("rb") as content:
            length = int.from_bytes(content.read(8), "little")
            if length > file.stat().st_size:
                raise ValueError("it has no header, or was cut off")
            header = json.loads(content.read(length))
        if missing := [name for name in _TENSORS if name not in header]:
            raise ValueError(f"it has no tensor {missing[0]!r}")
        shard = _Shard(file, *(_mapped(file, 8 + length, header[name]) for name in _TENSORS))
        shapes = [tensor.shape for tensor in shard[1:]]
        if len(shapes[0]) != 4 or shapes[1] != shapes[0] or shapes[2] != shapes[0][:1]:
            raise ValueError(f"its tensors have the shapes {', '.join(map(str, shapes))}")
        if not 0 <= shard.labels.min() <= shard.labels.max() < MOST_CLASSES:
            raise ValueError(f"it has labels outside 0..{MOST_CLASSES - 1}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"data.data_dir: {file} cannot be read as latents ({first_line(error)}); download it "
            "again, or make it by LightningDiT's extract_features.py"
        ) from error
    return shard


def _mapped(file: Path, start: int, facts: dict[str, Any]) -> np.ndarray:
    """Maps a tensor by its entry in the header; ``start`` is the first byte after that."""
    if facts["dtype"] not in _TYPES:
        raise ValueError(f"numbers of the type {facts['dtype']}")
    dtype, shape = np.dtype(_TYPES[facts["dtype"]]), tuple(facts["shape"])
    begin, end = facts["data_offsets"]
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"a tensor {shape} has {end - begin} bytes")
    return np.asarray(np.memmap(file, dtype, "r", start + begin, shape))


# ---- Statistics


def _normalisation(directory: Path, channels: int) -> Normalisation:
    """Reads the statistics of a folder."""
    file = directory / STATISTICS
    if not file.is_file():
        raise InputError(
            f"data.data_dir: {directory} lacks {STATISTICS}, by which latents are normalised; copy "
            "it from where they come from, or make it by LightningDiT's extract_features.py"
        )
    try:
        import torch

        facts = torch.load(file, map_location="cpu", weights_only=True)
        mean, std = (facts[name].double().flatten().numpy() for name in ("mean", "std"))
        if not len(mean) == len(std) == channels:
            raise ValueError(f"{len(mean)} means and {len(std)} deviations of {channels} channels")
        with np.errstate(divide="ignore"):
            return Normalisation.from_dict({"shift": mean, "scale": 1 / std})
    except ImportError:
        raise InputError(
            f"data.data_dir: reading {file} needs torch: pip install 'ddaepp_jax[convert]'"
        ) from None
    except Exception as error:  # A damaged file may raise anything.
        raise InputError(
            f"data.data_dir: {file} cannot be read ({first_line(error)}); download it again"
        ) from None
