"""Opens the extractors, sets of images and references that users name."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddaepp_jax import build
from ddaepp_jax.base.choice import choose
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.data import folders
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.scoring import classifier, extractors, image_sets, references
from ddaepp_jax.scoring.extractors import Extractor
from ddaepp_jax.scoring.image_sets import ImageSet
from ddaepp_jax.scoring.inception import RESIZING
from ddaepp_jax.scoring.references import Reference


@dataclasses.dataclass(frozen=True)
class ClassifierData:
    """The data set that a classifier learns, described without reading its images.

    Attributes:
      identity: tells the data set from others: the resolved path of a folder, or else its name.
      split: name of the training split.
      image_shape: (H, W, C).
      class_names: names of the classes; empty if the data have no labels.
      splits: opens the training split and the test split.
    """

    identity: str
    split: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    splits: Callable[[], tuple[Dataset, Dataset]]

    @classmethod
    def of_config(cls, config: ConfigDict) -> "ClassifierData":
        """Describes the data of a config."""
        data = config.data
        identity = str(Path(data.data_dir).resolve()) if data.name == "folder" else data.name
        image_shape, class_names = build.data_description(config)

        def splits() -> tuple[Dataset, Dataset]:
            return build.dataset(config, data.split), build.dataset(config, data.eval_split)

        return cls(identity, data.split, image_shape, class_names, splits)

    @classmethod
    def of_splits(cls, train: Dataset, held_out: Callable[[], Dataset]) -> "ClassifierData":
        """Describes an opened training split."""
        return cls(
            train.identity,
            train.split,
            train.image_shape,
            train.class_names,
            lambda: (train, held_out()),
        )


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
    directory = extractor_directory(name, data)
    if resizing is not None:
        choose("resizing", resizing, tuple(RESIZING))
    if name == "classifier" and not extractors.exists(directory):
        classifier.make(directory, *data.splits(), mesh)
    return extractors.load(directory, mesh, resizing)


def extractor_home(name: str) -> Path:
    """Returns the directory where the package keeps an extractor."""
    return Path.home() / ".cache" / "ddaepp_jax" / "extractors" / name


def extractor_directory(name: str, data: ClassifierData) -> Path:
    """Returns the directory of an extractor; a classifier's need not exist yet.

    Args:
      name: "inception", "classifier", or the directory of an extractor.
      data: the data set that the classifier learns.

    Raises:
      InputError: the extractor doesn't exist, or the data have no labels for a classifier.
    """
    if name == "classifier":
        if not data.class_names:
            raise InputError(
                f"extractor: {data.identity} has no labels for a classifier to learn; "
                "give another extractor"
            )
        size = "x".join(map(str, data.image_shape))
        words = f"classifier {data.identity} {data.split} {size}"
        return extractor_home(re.sub(r"[^A-Za-z0-9.]+", "_", words).strip("_"))
    directory = extractor_home(name) if name == "inception" else Path(name)
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
      InputError: there are no such images.
    """
    path = Path(text)
    if path.suffix == ".npz":
        return image_sets.of_npz(path)
    if path.is_dir():
        size = tuple(config.data.size) if any(config.data.size) else None
        images = folders.folder(path, folders.ALL, size, field)
        return image_sets.of_dataset(images, path.resolve().name)
    name, _, split = text.rpartition(":")
    if not name and not own:
        raise InputError(
            f"{field}: {text!r} is no .npz file and no folder; give NAME:SPLIT of a data set"
        )
    if not name:
        return image_sets.of_dataset(build.dataset(config, split), split)
    config = config.copy_and_resolve_references()
    config.data.name = name
    return image_sets.of_dataset(build.dataset(config, split), f"{name}-{split}")


def reference(
    text: str, config: ConfigDict, own: bool, extractor: Extractor, batch_size: int
) -> Reference:
    """Opens the reference that a user names; statistics of images are computed once.

    Args:
      text: an .npz file of statistics, or images as in ``image_set``.
      config, own: as in ``image_set``.
      extractor: the network whose features are compared.
      batch_size: number of images that are read at once.

    Raises:
      InputError: there is no such reference, or it doesn't fit the extractor.
    """
    file = Path(text)
    if file.suffix == ".npz" and references.is_statistics(file):
        return references.read(file, extractor, batch_size)
    images = image_set(text, "--reference", config, own)
    return references.compute_or_read(images, extractor, batch_size)
