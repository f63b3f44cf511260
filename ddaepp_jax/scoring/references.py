"""References, with which images are compared.

A reference holds the statistics of an extractor's features of images, and their provenance.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.scoring import frechet, image_sets
from ddaepp_jax.scoring.extractors import Extractor
from ddaepp_jax.scoring.frechet import Gaussian
from ddaepp_jax.scoring.image_sets import ImageSet

# Most images whose features are kept, for the scores that need more than moments.
FEATURES_AT_MOST = 10_000

# Names of each layer's mean and covariance in files: those of ADM; EDM and pytorch-fid use the same
# names for "pool".
MOMENTS = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


@dataclasses.dataclass(frozen=True)
class Reference:
    """Statistics of a set of images.

    Attributes:
      name: the images' name in metrics.
      provenance: "images" and "extractor", as they describe themselves; for a file from elsewhere,
        "file" and the known facts about its "extractor".
      gaussians: the Gaussian of each layer: "pool", and "spatial" if the extractor has it.
      features: (N, D) float32 of "pool", for at most ``FEATURES_AT_MOST`` random images; None if
        only moments are known.
    """

    name: str
    provenance: Mapping[str, Any]
    gaussians: Mapping[str, Gaussian]
    features: np.ndarray | None


def fixed_subset(features: np.ndarray) -> np.ndarray:
    """Returns at most ``FEATURES_AT_MOST`` rows, always the same ones.

    They are random because data sets often come ordered by class.
    """
    if len(features) <= FEATURES_AT_MOST:
        return np.asarray(features)
    return features[np.sort(np.random.RandomState(0).permutation(len(features))[:FEATURES_AT_MOST])]


def compute_or_read(images: ImageSet, extractor: Extractor, batch_size: int) -> Reference:
    """Computes the statistics of images, or reads them if they are in the extractor's directory.

    Args:
      images: images of the reference; all of them are used.
      extractor: the network whose features are compared.
      batch_size: number of images that are read at once.

    Raises:
      InputError: the directory can't be written; or as ``image_sets.collect``.
    """
    file = file_of(images, extractor)
    if file.exists():
        return dataclasses.replace(read(file, extractor, batch_size), name=images.name)
    partial = file.with_suffix("")
    try:
        features = image_sets.collect(images, extractor, partial, batch_size)
        gaussians = {
            layer: frechet.gaussian(features[layer]) for layer in MOMENTS if layer in features
        }
        provenance = {"images": images.provenance, "extractor": extractor.identity}
        reference = Reference(images.name, provenance, gaussians, fixed_subset(features["pool"]))
        _save(reference, file)
        shutil.rmtree(partial)
    except OSError as error:
        raise InputError(
            f"--extractor: cannot write {file} ({error.strerror}); copy the extractor to a "
            "directory that you can write, and give that by --extractor"
        ) from None
    return reference


def file_of(images: ImageSet, extractor: Extractor) -> Path:
    """Returns the file where the statistics of images are kept."""
    return extractor.directory / "references" / f"{images.slug}{extractor.suffix}.npz"


def _save(reference: Reference, file: Path) -> None:
    moments = {}
    for layer, gaussian in reference.gaussians.items():
        mean, covariance = MOMENTS[layer]
        moments |= {mean: gaussian.mean, covariance: gaussian.covariance}
    partial = file.with_suffix(".partial.npz")
    made = json.dumps({"name": reference.name, **reference.provenance})
    np.savez(partial, **moments, features=reference.features, made=made)
    partial.rename(file)


def read(file: Path, extractor: Extractor, batch_size: int) -> Reference:
    """Reads statistics from an .npz file.

    The file is this package's, or ADM's, EDM's or pytorch-fid's, with ``mu`` and ``sigma`` and
    perhaps ``mu_s`` and ``sigma_s``. If a file of ADM holds its images too (``arr_0``), their
    features are computed, for KID, precision and recall.

    Args:
      file: the .npz file.
      extractor: the network whose features are compared.
      batch_size: number of images that are read at once.

    Raises:
      InputError: the file is damaged, or its features are another extractor's.
    """
    names = _names(file)
    if "made" in names:
        name, provenance = _own_provenance(file, extractor)
    else:
        _check_foreign(file, names, extractor)
        name = file.stem
        provenance = {"file": file.name, "extractor": {"kind": "inception"}}
    gaussians = {}
    for layer, (mean, covariance) in MOMENTS.items():
        if mean in names and covariance in names:
            moments = [image_sets.read_array(file, array) for array in (mean, covariance)]
            try:
                gaussians[layer] = frechet.from_moments(*moments)
            except ValueError as error:
                raise InputError(
                    f"--reference: {file}: {covariance}: {first_line(error)}"
                ) from None
    features = image_sets.read_array(file, "features") if "features" in names else None
    if "arr_0" in names:
        features = compute_or_read(image_sets.of_npz(file), extractor, batch_size).features
    return Reference(name, provenance, gaussians, features)


def is_statistics(file: Path) -> bool:
    """Returns whether an .npz file holds statistics, perhaps beside images."""
    return "mu" in _names(file)


def _names(file: Path) -> list[str]:
    """Returns the names of an .npz file's arrays."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return list(arrays)
    except Exception as error:  # A file of another format can raise anything.
        raise InputError(
            f"{file}: not an .npz file that can be read ({first_line(error)}); give another"
        ) from None


def _own_provenance(file: Path, extractor: Extractor) -> tuple[str, dict[str, Any]]:
    """Returns the name and the provenance in a file of this package.

    A file of another extractor is refused.
    """
    try:
        provenance = json.loads(str(image_sets.read_array(file, "made")))
        name = provenance.pop("name")
        theirs = provenance["extractor"]
        differences = [
            f"{key}: {str(theirs.get(key))[:16]}, here {str(value)[:16]}"
            for key, value in extractor.identity.items()
            if theirs.get(key) != value
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"--reference: {file} is damaged ({first_line(error)}); compute it again"
        ) from None
    if differences:
        raise InputError(
            f"--reference: {file} has features of another extractor ({'; '.join(differences)}); "
            "compute it again with this one"
        )
    return name, provenance


def _check_foreign(file: Path, names: Sequence[str], extractor: Extractor) -> None:
    """Refuses a file from elsewhere whose features can't be compared with the extractor's."""
    if not {"mu", "sigma"} <= set(names):
        raise InputError(
            f"--reference: {file} has no statistics mu and sigma but "
            f"{', '.join(names) or 'nothing'}; give another file"
        )
    if extractor.kind != "inception":
        raise InputError(
            f"--reference: {file} has features of Inception, which can't be compared with those of "
            f"a {extractor.kind}; give another file"
        )
    dimensions = len(image_sets.read_array(file, "mu"))
    if dimensions != 2048:
        raise InputError(
            f"--reference: {file} has features of {dimensions} dimensions, but Inception has 2048; "
            "give another file"
        )
    if {"mu_s", "arr_0"} & set(names) and extractor.module.resizing != "tensorflow1":
        raise InputError(
            f"--reference: {file} is a file of ADM, made with TensorFlow 1's resizing; "
            "add --resizing=tensorflow1"
        )
