"""Where the images of tar files lie, by which they are read in any order.

A sample is the members of one key: a member's path up to the first dot of its name. It has an
image, and its label in KEY.cls, or as "label" in KEY.json, or none. Other members are left out. The
members of a sample lie together, as WebDataset has it (https://github.com/webdataset/webdataset).
The places are listed once, and kept in the user's cache.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from ddaepp_jax.base.dispatch import progress_bar
from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.base.files import replacing
from ddaepp_jax.base.paths import user_cache
from ddaepp_jax.data.images import SUFFIXES

MOST_CLASSES = 10**6
NO_LABEL = -1
PLACE = np.dtype(
    [("shard", np.int32), ("offset", np.int64), ("size", np.int64), ("label", np.int32)]
)

_FORMAT = 1  # version of the lists of places
_LABELS = (".cls", ".json")
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)  # of NumPy's files

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Samples:
    """The images of shards.

    Attributes:
      shards: the files.
      places: (N,) of ``PLACE``: an image's shard, first byte and size there, and label.
    """

    shards: Sequence[Path]
    places: np.ndarray

    @classmethod
    def of(cls, shards: Sequence[Path], title: str) -> "Samples":
        """Lists the samples of shards, or reads the list that the user's cache has.

        Args:
          shards: the files.
          title: title of a progress bar that appears after a while.
        """
        kept = _cache_file(shards)
        with contextlib.suppress(*_UNREADABLE), kept.open("rb") as stream:
            return cls(shards, np.load(stream)["places"])
        parts = []
        with (
            progress_bar(len(shards), "file", title, delay=2) as bar,
            ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            for part in pool.map(_places, itertools.count(), shards):
                parts.append(part)
                bar.update()
        places = np.concatenate(parts)
        if not len(places):
            raise InputError(
                f"data.data_dir: {shards[0]} and the files beside it hold no images "
                f"({', '.join(sorted(SUFFIXES))}); an image is called KEY.png"
            )
        with contextlib.suppress(OSError):  # Without the list, they are listed again.
            kept.parent.mkdir(parents=True, exist_ok=True)
            with replacing(kept) as stream:
                np.savez(stream, places=places)
        return cls(shards, places)

    def use(self, number: int, decode: Callable[[bytes, str], T]) -> T:
        """Decodes the content of an image by a function that also gets its name for errors."""
        shard, offset, size, _ = self.places[number]
        file = self.shards[shard]
        try:
            with file.open("rb") as opened:
                opened.seek(offset)
                content = opened.read(size)
        except OSError as error:
            raise InputError(f"{file} cannot be read ({error.strerror}); restore it") from error
        try:
            return decode(content, str(file))
        except InputError:
            return decode(content, self.name(number))  # The name has to be looked for.

    def name(self, number: int) -> str:
        """Returns the shard and the member of an image."""
        shard, offset, _, _ = self.places[number]
        names = (each.name for each in _members(self.shards[shard]) if each.offset == offset)
        return f"{self.shards[shard]}: {next(names, 'an image')}"


def _cache_file(shards: Sequence[Path]) -> Path:
    """Returns the file for the places in shards, whose name depends on their sizes and times."""
    try:
        stats = [each.stat() for each in shards]
    except OSError as error:
        raise InputError(
            f"{error.filename} cannot be read ({error.strerror}); restore it"
        ) from error
    facts = [
        (str(each.absolute()), stat.st_size, stat.st_mtime_ns)
        for each, stat in zip(shards, stats, strict=True)
    ]
    name = hashlib.sha256(json.dumps([_FORMAT, facts]).encode()).hexdigest()[:32]
    return user_cache() / "tars" / f"{name}.npz"


class _Member(NamedTuple):
    """A member of a shard.

    Attributes:
      name: its path, for people.
      key, suffix: parts of the path, before and from the first dot of the name.
      offset, size: its first byte and size.
      content: its content, if it may hold a label.
    """

    name: str
    key: str
    suffix: str
    offset: int
    size: int
    content: bytes


def _members(file: Path) -> Iterator[_Member]:
    """Yields the members of a shard in their order, but those without a key.

    Raises:
      InputError: the shard is damaged or cut off.
    """
    try:
        with tarfile.open(file, "r:") as tar:
            while (each := tar.next()) is not None:
                tar.members.clear()  # It would keep all.
                folder, slash, name = each.name.rpartition("/")
                stem, dot, suffix = name.partition(".")
                if not (each.isfile() and stem and dot):
                    continue
                suffix = f".{suffix.lower()}"
                content = tar.extractfile(each).read() if suffix in _LABELS else b""
                key = folder + slash + stem
                shown = each.name if each.name.isprintable() else ascii(each.name)
                yield _Member(shown, key, suffix, each.offset_data, each.size, content)
            tar.fileobj.seek(tar.offset)
            end = tar.fileobj.read(2**20)
            if len(end) < tarfile.BLOCKSIZE or any(end):  # ``next`` stops at a damaged header.
                raise ValueError(f"it is damaged or cut off at byte {tar.offset}")
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        raise InputError(
            f"{file} cannot be read as a tar file ({first_line(error)}); download or make it again"
        ) from error


def _places(shard: int, file: Path) -> np.ndarray:
    """Returns the places (n,) of a shard's images."""
    return np.fromiter(_scan(shard, file), PLACE)


def _scan(shard: int, file: Path) -> Iterator[tuple[int, int, int, int]]:
    """Yields the places of a shard's images."""
    for _, members in itertools.groupby(_members(file), lambda each: each.key):
        images, labels = [], {}
        for each in members:
            if each.suffix in SUFFIXES:
                images.append(each)
            elif each.suffix in _LABELS and (label := _label(each, file)) is not None:
                labels[label] = each
        for noun, found in (("images", images), ("labels", list(labels.values()))):
            if len(found) > 1:
                raise InputError(
                    f"{file}: {found[0].name} and {found[1].name} are two {noun} of one sample; "
                    "remove one, or rename it"
                )
        if labels and not images:
            raise InputError(
                f"{file}: {next(iter(labels.values())).name} has no image directly beside it; add "
                "one, or make the file again with sorted names (tar --sort=name)"
            )
        if images:
            yield shard, images[0].offset, images[0].size, next(iter(labels), NO_LABEL)


def _label(member: _Member, file: Path) -> int | None:
    """Returns the label that a member holds; None for JSON without one."""
    try:
        text = member.content.decode(errors="replace")
        if member.suffix == ".json":
            facts = json.loads(text)
            if "label" not in facts:
                return None
            text = str(facts["label"])
        label = int(text)
        if not 0 <= label < MOST_CLASSES:
            raise ValueError(f"{label} is not in 0..{MOST_CLASSES - 1}")
        return label
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{file}: {member.name} holds no label ({first_line(error)}); write the number of the "
            "class there"
        ) from error
