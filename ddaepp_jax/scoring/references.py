"""What images are compared with: statistics of an extractor's features, stored with where they come
from.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.scoring import frechet, image_sets
from ddaepp_jax.scoring.extractors import Extractor
from ddaepp_jax.scoring.frechet import Gaussian
from ddaepp_jax.scoring.image_sets import ImageSet

FEATURES_AT_MOST = (
    10_000  # images whose features are kept for the scores that need more than moments
)

# The layers' names in files: those of ADM, which EDM's and pytorch-fid's share for "pool".
MOMENTS = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


@dataclasses.dataclass(frozen=True)
class Reference:
    """Statistics of a set of images.

    Attributes:
      name: of the images, as scores carry it.
      made: "images" and "extractor", as they describe themselves; of a file from elsewhere, "file"
        and what is known.
      gaussians: by layer, "pool" and where there is one "spatial".
      features: (N, D) float32 of the pool, at most ``FEATURES_AT_MOST`` drawn ones; None where only
        moments are known.
    """

    name: str
    made: Mapping[str, Any]
    gaussians: Mapping[str, Gaussian]
    features: np.ndarray | None


def drawn(features: np.ndarray) -> np.ndarray:
    """At most ``FEATURES_AT_MOST`` rows, always the same ones: drawn, as sets come ordered by
    class.
    """
    if len(features) <= FEATURES_AT_MOST:
        return np.asarray(features)
    return features[np.sort(np.random.RandomState(0).permutation(len(features))[:FEATURES_AT_MOST])]


def of(images: ImageSet, extractor: Extractor, batch_size: int, mesh: Mesh) -> Reference:
    """Statistics of all images, from the extractor's directory where they have been made before.

    Raises:
      InputError: as ``image_sets.collect``; or the directory cannot be written.
    """
    file = file_of(images, extractor)
    if file.exists():
        return dataclasses.replace(read(file, extractor, batch_size, mesh), name=images.name)
    partial = file.with_suffix("")
    try:
        found = image_sets.collect(images, extractor, partial, batch_size, mesh)
        gaussians = {layer: frechet.gaussian(found[layer]) for layer in MOMENTS if layer in found}
        made = {"images": images.made, "extractor": extractor.described}
        reference = Reference(images.name, made, gaussians, drawn(found["pool"]))
        _save(reference, file)
        shutil.rmtree(partial)
    except OSError as error:
        raise InputError(
            f"--extractor: cannot write {file} ({error.strerror}); copy it to where you can"
        ) from None
    return reference


def file_of(images: ImageSet, extractor: Extractor) -> Path:
    """Where the statistics of these images are kept."""
    return extractor.directory / "references" / f"{images.slug}{extractor.suffix}.npz"


def _save(reference: Reference, file: Path) -> None:
    moments = {}
    for layer, gaussian in reference.gaussians.items():
        moments |= dict(zip(MOMENTS[layer], (gaussian.mean, gaussian.covariance), strict=True))
    partial = file.with_suffix(".partial.npz")
    made = json.dumps({"name": reference.name, **reference.made})
    np.savez(partial, **moments, features=reference.features, made=made)
    partial.rename(file)


def read(file: Path, extractor: Extractor, batch_size: int, mesh: Mesh) -> Reference:
    """Statistics from an .npz file: ours, or ADM's, EDM's or pytorch-fid's (``mu``, ``sigma``,
    ``mu_s``, ``sigma_s``).

    Where an ADM file holds its images too (``arr_0``), their features are made, for precision and
    recall.

    Raises:
      InputError: not such a file, or of another extractor or resizing.
    """
    names = _names(file)
    made: dict[str, Any] = {
        "name": file.stem,
        "file": file.name,
        "extractor": {"kind": "inception"},
    }
    if "made" in names:
        try:
            made = json.loads(str(image_sets.arrays(file, "made")))
            theirs = made["extractor"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"--reference: {file} is damaged ({first_line(error)}); make it again"
            ) from None
        differing = [
            f"{name}: {str(theirs.get(name))[:16]}, here {str(value)[:16]}"
            for name, value in extractor.described.items()
            if theirs.get(name) != value
        ]
        if differing:
            raise InputError(
                f"--reference: {file} is another extractor's ({'; '.join(differing)}); make it again"
            )
    else:
        _check_foreign(file, names, extractor)
    gaussians = {}
    for layer, (mean, covariance) in MOMENTS.items():
        if mean in names and covariance in names:
            moments = (image_sets.arrays(file, name) for name in (mean, covariance))
            try:
                gaussians[layer] = frechet.from_moments(*moments)
            except ValueError as error:
                raise InputError(
                    f"--reference: {file}: {covariance}: {first_line(error)}"
                ) from None
    features = image_sets.arrays(file, "features") if "features" in names else None
    if "arr_0" in names:
        features = of(image_sets.of_npz(file), extractor, batch_size, mesh).features
    name = made.pop("name")
    return Reference(name, made, gaussians, features)


def is_statistics(file: Path) -> bool:
    """Whether an .npz file holds statistics, and not images alone."""
    return "mu" in _names(file)


def _names(file: Path) -> list[str]:
    try:
        with np.load(file, allow_pickle=False) as held:
            return list(held)
    except Exception as error:  # whatever a file of another format makes of itself
        raise InputError(
            f"{file}: not an .npz file that can be read ({first_line(error)})"
        ) from None


def _check_foreign(file: Path, names: list[str], extractor: Extractor) -> None:
    """Refuse what is known not to be comparable."""
    if not {"mu", "sigma"} <= set(names):
        raise InputError(
            f"--reference: {file} has no statistics mu and sigma but {', '.join(names) or 'nothing'}"
        )
    if extractor.kind != "inception":
        raise InputError(
            f"--reference: {file} is of Inception's features; a {extractor.kind}'s are not comparable"
        )
    if len(mean := image_sets.arrays(file, "mu")) != 2048:
        raise InputError(
            f"--reference: {file} is of {len(mean)} features, and Inception has 2048; give another file"
        )
    if {"mu_s", "arr_0"} & set(names) and extractor.module.resizing != "tensorflow1":
        raise InputError(
            f"--reference: {file} is ADM's, with TensorFlow 1's resizing; add --resizing=tensorflow1"
        )
