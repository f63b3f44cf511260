"""Extractors by the name that a user gives."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh

from ddaepp_jax.base.choice import choose
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.scoring import classifier, extractors
from ddaepp_jax.scoring.extractors import Extractor
from ddaepp_jax.scoring.inception import RESIZING


class DataSet(NamedTuple):
    """What tells a data set from others, without its images.

    Attributes:
      identity: a folder's resolved path, or the data set's name.
      split: the training split.
      image_shape: (H, W, C).
      class_names: of its labels; empty without labels.
    """

    identity: str
    split: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, data: Dataset) -> "DataSet":
        """Describes an opened training split."""
        name = str(Path(data.name).resolve()) if Path(data.name).is_dir() else data.name
        return cls(name, data.split, data.image_shape, data.class_names)


def extractor(
    name: str,
    data: DataSet,
    splits: Callable[[], tuple[Dataset, Dataset]],
    mesh: Mesh,
    resizing: str | None = None,
) -> Extractor:
    """Opens the network that images are scored by.

    Args:
      name: "inception"; "classifier", of the data, which is trained where it isn't there yet; or
        the directory of an extractor.
      data: what a classifier is of.
      splits: opens the training and the test split, for a classifier that has to be trained.
      mesh: the devices.
      resizing: how Inception's images are resized; None is "pytorch".

    Raises:
      InputError: no such extractor or resizing.
    """
    directory = extractor_directory(name, data)
    if resizing is not None:
        choose("resizing", resizing, tuple(RESIZING))
    if name == "classifier" and not extractors.there(directory):
        classifier.make(directory, *splits(), mesh)
    return extractors.load(directory, mesh, resizing)


def extractor_home(name: str) -> Path:
    """Returns the directory of an extractor that has a name and no directory of the user's."""
    return Path.home() / ".cache" / "ddaepp_jax" / "extractors" / name


def extractor_directory(name: str, data: DataSet) -> Path:
    """Returns the directory where an extractor is, or will be once it is trained.

    Raises:
      InputError: it is not there, and only the user can bring it.
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
    if extractors.there(directory):
        return directory
    if name == "inception":
        raise InputError(
            f"extractor: Inception's weights are not in {directory}; "
            "python -m ddaepp_jax.convert --kind=inception-fid fetches them; "
            "or take extractor=classifier"
        )
    raise InputError(
        f"extractor: no {name!r}; there is inception, classifier, or the directory of one"
    )
