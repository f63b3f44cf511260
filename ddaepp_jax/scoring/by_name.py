"""Opens the extractors, sets of images and references that users name."""

import contextlib
import dataclasses
import functools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddaepp_jax import build
from ddaepp_jax.base.choice import choose
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.paths import local_path
from ddaepp_jax.base.processes import from_first, is_first
from ddaepp_jax.data import folders
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.scoring import classifier, extractors, image_sets, references
from ddaepp_jax.scoring.extractors import Extractor
from ddaepp_jax.scoring.fingerprint import fingerprint
from ddaepp_jax.scoring.image_sets import ImageSet
from ddaepp_jax.scoring.inception import RESIZING
from ddaepp_jax.scoring.references import Reference


@dataclasses.dataclass(frozen=True)
class ClassifierData:
    """The data set that a classifier learns, described without reading its images.

    Attributes:
      name: name of the set.
      image_shape: (H, W, C).
      class_names: names of the classes; empty if the data have no labels.
      train: opens the training split.
      held_out: opens the split on which the classifier's accuracy is measured.
      images: number of images that the training sees; None for ``classifier.images_for``.
    """

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    train: Callable[[], Dataset]
    held_out: Callable[[], Dataset]
    images: int | None = None

    @classmethod
    def of_config(cls, config: ConfigDict, images: int | None = None) -> "ClassifierData":
        """Describes the data of a config."""
        image_shape, class_names = build.data_description(config)
        train = functools.cache(lambda: build.dataset(config, config.data.split))
        held_out = functools.cache(lambda: build.held_out(config, train()))
        name = "folder" if config.data.name == build.TAR else config.data.name
        return cls(name, image_shape, class_names, train, held_out, images)

    @classmethod
    def of_splits(cls, train: Dataset, held_out: Callable[[], Dataset]) -> "ClassifierData":
        """Describes an opened training split."""
        name = train.name if train.folder is None else "folder"
        return cls(name, train.image_shape, train.class_names, lambda: train, held_out)

    @functools.cached_property
    def directory_name(self) -> str:
        """The name of the classifier's directory, which depends on every image and label.

        The first access reads all images.
        """
        data = self.train()
        digest = fingerprint(
            data.gather, len(data), data.image_shape, f"hashing {data.name}", data.class_names
        )
        size = "x".join(map(str, self.image_shape))
        seen = self.images or classifier.images_for(len(data))
        words = f"classifier {self.name} {size} {seen} {digest[:16]}"
        return re.sub(r"[^A-Za-z0-9.]+", "_", words).strip("_")


def extractor(
    name: str, data: ClassifierData, mesh: Mesh, resizing: str | None = None
) -> Extractor:
    """Opens an extractor. A classifier is trained if there is none of these data yet.

    Args:
      name: "inception", "classifier", or the directory of an extractor.
      data: the data set that the classifier learns.
      mesh: the devices.
      resizing: how Inception's images are resized, a key of ``RESIZING``; None is "pytorch".

    Raises:
      InputError: there is no such extractor or resizing.
    """
    if resizing is not None:
        choose("resizing", resizing, tuple(RESIZING))
        if name == "classifier":
            raise InputError(
                f"--resizing: {resizing!r}, but a classifier takes images as they are; leave it out"
            )
    # Process 0 knows the directory, which other hosts need not see, and reads all images for it.
    directory, exists = from_first(lambda: _place(name, data))
    if name == "classifier" and not exists:
        classifier.make(directory, data.train(), data.held_out(), mesh, data.images)
    return extractors.load(directory, mesh, resizing)


def _place(name: str, data: ClassifierData) -> tuple[Path, bool]:
    """Returns an extractor's directory, and whether it is there."""
    directory = extractor_directory(name, data)
    return directory, extractors.exists(directory)


def kind(name: str, data: ClassifierData) -> str:
    """Returns the kind of an extractor; "" if it is a classifier that is not trained yet.

    Raises:
      InputError: as ``extractor_directory``.
    """
    directory = extractor_directory(name, data)
    return extractors.kind_of(directory) if extractors.exists(directory) else ""


def extractor_home(name: str) -> Path:
    """Returns the directory where the package keeps an extractor."""
    return local_path("~/.cache", "extractor") / "ddaepp_jax" / "extractors" / name


def extractor_directory(name: str, data: ClassifierData) -> Path:
    """Returns the directory of an extractor; a classifier's need not exist yet.

    Args:
      name: "inception", "classifier", or the directory of an extractor.
      data: the data set that the classifier learns.

    Raises:
      InputError: the extractor doesn't exist, or the data have no labels for a classifier.
    """
    if name == "classifier":
        if len(data.class_names) < 2:
            raise InputError(
                f"extractor: {data.name} has labels of {len(data.class_names)} classes, and a "
                "classifier needs two; give another extractor"
            )
        return extractor_home(data.directory_name)
    directory = extractor_home(name) if name == "inception" else local_path(name, "extractor")
    if extractors.exists(directory):
        return directory
    if name == "inception":
        raise InputError(
            f"extractor: Inception's weights are not in {directory}; "
            "python -m ddaepp_jax.convert --kind=inception-fid fetches them; "
            "or take extractor=classifier"
        )
    if directory.exists():
        wrong = f"{name} holds no extractor (no extractor.json)"
    else:
        wrong = f"no {name!r}"
    raise InputError(f"extractor: {wrong}; give inception, classifier, or an extractor's directory")


def image_set(text: str, field: str, config: ConfigDict, own: bool) -> ImageSet:
    """Opens the images that a user names.

    Args:
      text: an .npz file, a folder, NAME:SPLIT of a data set, or a split of the config's data.
      field: names ``text`` in errors.
      config: config whose group ``data`` says how data sets are read.
      own: whether a split without a name means the config's data.

    Raises:
      InputError: there are no such images, or a folder holds several splits.
    """
    path = local_path(text, field)
    if path.suffix == ".npz":
        return image_sets.of_npz(path)
    if path.is_dir():
        return _folder(path, field, config)
    name, _, split = text.rpartition(":")
    if path.exists() or (not name and ("/" in text or not own)):
        wrong = "is neither an .npz file nor a folder" if path.exists() else "does not exist"
        raise InputError(
            f"{field}: {text!r} {wrong}; give an .npz file, a folder of images, or NAME:SPLIT of a "
            "data set"
        )
    with _named(field, "--data_dir"):
        if not name:
            return image_sets.of_dataset(build.dataset(config, split), split)
        config = config.copy_and_resolve_references()
        config.data.name = name
        return image_sets.of_dataset(build.dataset(config, split), f"{name}-{split}")


def _folder(path: Path, field: str, config: ConfigDict) -> ImageSet:
    """Opens all images of a folder."""
    size = tuple(config.data.size) if any(config.data.size) else None
    with _named(field, field):
        images = folders.folder(path, folders.ALL, size, field)
    if images.note and is_first():
        print(f"{field}: {images.described}", file=sys.stderr)
    return image_sets.of_dataset(images, path.resolve().name)


@contextlib.contextmanager
def _named(field: str, folder_field: str) -> Iterator[None]:
    """Puts the arguments of the program into errors that name fields of a config."""
    try:
        yield
    except InputError as error:
        name, _, text = str(error).partition(": ")
        fields = {"data.size": "--size", "data.data_dir": folder_field}
        if not name.startswith("data."):
            raise
        raise InputError(f"{fields.get(name, field)}: {text}") from None


def reference_source(text: str, config: ConfigDict, own: bool) -> Path | ImageSet:
    """Opens the reference that a user names, before anything is computed of it.

    Args:
      text: an .npz file of statistics, or images as in ``image_set``.
      config, own: as in ``image_set``.

    Returns:
      The file of statistics, or the images.

    Raises:
      InputError: there is no such reference, or it has too few images.
    """
    file = local_path(text, "--reference")
    if file.suffix == ".npz" and references.is_statistics(file):
        return file
    images = image_set(text, "--reference", config, own)
    image_sets.check_count(images, "--reference")
    return images


def reference(source: Path | ImageSet, extractor: Extractor, batch_size: int) -> Reference | None:
    """Reads the statistics of a reference; those of images are computed once.

    Process 0 gets the reference, and the others None.

    Args:
      source: what ``reference_source`` returns.
      extractor: the network whose features are compared.
      batch_size: number of images that are read at once.

    Raises:
      InputError: the reference is damaged, or doesn't fit the extractor.
    """
    if isinstance(source, Path):
        return references.read(source, extractor, batch_size)
    return references.compute_or_read(source, extractor, batch_size)
