"""References, with which images are compared.

A reference holds the statistics of an extractor's features of images, and their provenance.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.base.processes import from_first, in_first, is_first, together
from ddaepp_jax.base.unfinished import workspace
from ddaepp_jax.scoring import FEWEST, frechet, image_sets
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


def compute_or_read(images: ImageSet, extractor: Extractor, batch_size: int) -> Reference | None:
    """Computes the statistics of images, or reads them if they are in the extractor's directory.

    All devices compute features. Process 0 alone has the files, and compares with them.

    Args:
      images: images of the reference; all of them are used.
      extractor: the network whose features are compared.
      batch_size: number of images that are read at once.

    Returns:
      The reference in process 0, None in the others.

    Raises:
      InputError: the directory can't be written; or as ``image_sets.collect``.
    """
    reference = in_first(lambda: _stored(images, extractor))
    if from_first(lambda: reference is not None):
        return reference
    partial, file = from_first(
        lambda: (image_sets.partial(images, extractor), file_of(images, extractor))
    )
    mend = "copy the extractor to a directory that you can write, and give that by --extractor"
    try:
        with workspace(partial, f"wait, or {mend}") as directory:
            features = image_sets.collect(images, extractor, directory / "features", batch_size)
            return in_first(lambda: _computed(images, extractor, features, file))
    except OSError as error:
        raise InputError(f"--extractor: cannot write {file} ({error.strerror}); {mend}") from None


def _computed(
    images: ImageSet, extractor: Extractor, features: Mapping[str, np.ndarray], file: Path
) -> Reference:
    """Computes the statistics of images from their features, and writes them to a file."""
    _check_different(features["pool"], images)
    gaussians = {layer: frechet.gaussian(features[layer]) for layer in MOMENTS if layer in features}
    provenance = {"images": images.provenance, "extractor": extractor.identity}
    reference = Reference(images.name, provenance, gaussians, fixed_subset(features["pool"]))
    file.parent.mkdir(exist_ok=True)
    _save(reference, file)
    return reference


def _check_different(features: np.ndarray, images: ImageSet) -> None:
    """Refuses images that all have the same features (N, D), as a broken extractor gives them."""
    if (features.max(axis=0) == features.min(axis=0)).all():
        raise InputError(
            f"--reference: the {len(images)} images of {images.name} have the same features, so "
            "nothing can be compared with them; give other images or another extractor"
        )


def _stored(images: ImageSet, extractor: Extractor) -> Reference | None:
    """Reads the stored statistics of images; None if there are none, or they are unusable."""
    file = file_of(images, extractor)
    if not file.exists():
        return None
    try:
        reference = _read(file, extractor)
        same = reference.provenance["images"]["fingerprint"] == images.provenance["fingerprint"]
    except (InputError, KeyError, TypeError) as error:
        print(f"computing the statistics of {images.name} again: {error}", file=sys.stderr)
        return None
    return dataclasses.replace(reference, name=images.name) if same else None


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


def read(file: Path, extractor: Extractor, batch_size: int) -> Reference | None:
    """Reads statistics from an .npz file.

    The file is this package's, or ADM's, EDM's or pytorch-fid's, with ``mu`` and ``sigma`` and
    perhaps ``mu_s`` and ``sigma_s``. If a file of ADM holds its images too (``arr_0``), their
    features are computed, for KID, precision and recall.

    Args:
      file: the .npz file.
      extractor: the network whose features are compared.
      batch_size: number of images that are read at once.

    Returns:
      The reference in process 0, None in the others.

    Raises:
      InputError: the file is damaged, or its features are another extractor's.
    """
    reference = in_first(lambda: _read(file, extractor))
    if from_first(lambda: "arr_0" in _names(file)):
        images = together(lambda: image_sets.of_npz(file))
        of_images = compute_or_read(images, extractor, batch_size)
        if reference:
            reference = dataclasses.replace(reference, features=of_images.features)
    return reference


def _read(file: Path, extractor: Extractor) -> Reference:
    """Reads what a file holds beside images."""
    names = _names(file)
    if "made" in names:
        name, provenance = _own_provenance(file, extractor)
    else:
        _check_foreign(file, names, extractor)
        name = file.stem
        provenance = {"file": file.name, "extractor": {"kind": "inception"}}
    gaussians = {
        layer: _gaussian(file, layer, extractor)
        for layer, moments in MOMENTS.items()
        if layer == "pool" or not names.isdisjoint(moments)
    }
    features = None
    if "features" in names:
        features = image_sets.read_array(file, "features")
        _check_features(file, features, extractor.widths["pool"])
    return Reference(name, provenance, gaussians, features)


def _gaussian(file: Path, layer: str, extractor: Extractor) -> Gaussian:
    """Reads and checks a layer's moments."""
    mean, covariance = (image_sets.read_array(file, name) for name in MOMENTS[layer])
    dimensions = extractor.widths.get(layer, 0)
    names = " and ".join(MOMENTS[layer])
    if mean.shape != (dimensions,):
        raise InputError(
            f"--reference: {file}: {names} have shapes {mean.shape} and {covariance.shape}, but "
            f"the {extractor.kind} has {dimensions} features ({layer}); give another file"
        )
    try:
        return frechet.from_moments(mean, covariance)
    except (ValueError, TypeError) as error:
        raise InputError(f"--reference: {file}: {names}: {first_line(error)}") from None


def _check_features(file: Path, features: np.ndarray, dimensions: int) -> None:
    """Refuses features that can't be compared."""
    fits = features.ndim == 2 and features.shape[1] == dimensions and len(features) >= FEWEST
    if not (fits and features.dtype.kind == "f" and np.isfinite(features).all()):
        raise InputError(
            f"--reference: {file}: features are {features.dtype} of shape {features.shape}; give "
            f"finite numbers of shape (N, {dimensions}) with N >= {FEWEST}"
        )


def is_statistics(file: Path) -> bool:
    """Returns whether an .npz file holds statistics, perhaps beside images."""
    return "mu" in _names(file)


def described(source: Path | ImageSet) -> tuple[str, tuple[int, ...] | None]:
    """Returns a reference's name and (H, W, C) of its images, which a file may not tell.

    Args:
      source: a file of statistics, or images.
    """
    if isinstance(source, ImageSet):
        return source.name, source.image_shape
    if "made" not in _names(source):
        return source.stem, None
    try:
        facts = json.loads(str(image_sets.read_array(source, "made")))
        return str(facts["name"]), tuple(facts["images"]["image_shape"])
    except (ValueError, KeyError, TypeError):
        return source.stem, None  # ``read`` reports the damage.


def check_comparable(image_shape: tuple[int, ...], source: Path | ImageSet, field: str) -> None:
    """Refuses images of another size than the reference's; says if only one of them is grey.

    Args:
      image_shape: (H, W, C) of the images to score.
      source: the reference: a file of statistics, or images.
      field: names the images to score in the message.

    Raises:
      InputError: the heights or widths differ.
    """
    _, theirs = described(source)
    if theirs is None or image_shape == theirs:
        return
    ours, others = ("x".join(map(str, shape[:2])) for shape in (image_shape, theirs))
    if ours != others:
        raise InputError(
            f"{field}: images are {ours}, but those of the reference are {others}, and their "
            "sharpness alone sets them apart; bring both to one size (--size=HEIGHT,WIDTH does so "
            "for folders and data sets)"
        )
    if not is_first():
        return
    print(
        f"note: {field} has images of {image_shape[2]} channels, and the reference of {theirs[2]}; "
        "a grey image counts as three equal channels",
        file=sys.stderr,
    )


def _names(file: Path) -> set[str]:
    """Returns the names of an .npz file's arrays."""
    with image_sets.open_npz(file) as arrays:
        return set(arrays)


def _own_provenance(file: Path, extractor: Extractor) -> tuple[str, dict[str, Any]]:
    """Returns the name and the provenance in a file of this package.

    A file of another extractor is refused.
    """
    try:
        provenance = json.loads(str(image_sets.read_array(file, "made")))
        name = str(provenance.pop("name"))
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


def _check_foreign(file: Path, names: set[str], extractor: Extractor) -> None:
    """Refuses a file from elsewhere whose features can't be compared with the extractor's."""
    if not {"mu", "sigma"} <= names:
        raise InputError(
            f"--reference: {file} has no statistics mu and sigma but "
            f"{', '.join(sorted(names)) or 'nothing'}; give another file"
        )
    if extractor.kind != "inception":
        raise InputError(
            f"--reference: {file} has features of Inception, which can't be compared with those of "
            f"a {extractor.kind}; give another file"
        )
    if {"mu_s", "arr_0"} & names and extractor.module.resizing != "tensorflow1":
        raise InputError(
            f"--reference: {file} is a file of ADM, made with TensorFlow 1's resizing; "
            "add --resizing=tensorflow1"
        )
