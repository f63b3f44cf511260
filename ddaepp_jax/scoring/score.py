"""Scores of a set of images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.processes import from_first, in_first
from ddaepp_jax.base.results import Results
from ddaepp_jax.base.unfinished import workspace
from ddaepp_jax.scoring import image_sets, metrics
from ddaepp_jax.scoring.extractors import Extractor
from ddaepp_jax.scoring.image_sets import ImageSet
from ddaepp_jax.scoring.references import Reference


def score(
    images: ImageSet,
    extractor: Extractor,
    reference: Reference | None,
    directory: Path,
    batch_size: int,
) -> dict[str, float]:
    """Computes the scores of images; all devices compute features, and process 0 compares them.

    Args:
      images: the images to score.
      extractor: the network whose features are compared.
      reference: the reference with which the images are compared, by the same extractor; process
        0 alone needs it.
      directory: directory of the features. A stopped call is continued from it; the caller removes
        it.
      batch_size: number of images that are read at once.

    Returns:
      Scores by name; see ``metrics.scores``.

    Raises:
      InputError: the images can't be scored; see ``image_sets.collect``.
    """
    features = image_sets.collect(images, extractor, directory, batch_size)
    return from_first(lambda: metrics.scores(features, reference))


def score_images(
    images: ImageSet,
    extractor: Extractor,
    reference: Reference | None,
    batch_size: int,
    out: Path | None = None,
) -> dict[str, Any]:
    """Scores images from elsewhere.

    Args:
      images, extractor, reference, batch_size: as in ``score``.
      out: path of the JSON file, without suffix; None writes no file.

    Returns:
      The same keys as ``samples.score_samples`` returns, but with a single row that has no seed,
      and with "images" instead of those about a run.

    Raises:
      InputError: the images can't be scored, ``out`` holds something else, or a file can't be
        written.
    """
    identity, partial = from_first(lambda: _begin(images, extractor, reference, out))
    mend = "copy the extractor to a directory that you can write, and give that by --extractor"
    try:
        with workspace(partial, f"wait, or {mend}") as directory:
            row = score(images, extractor, reference, directory / "features", batch_size)
    except OSError as error:
        raise InputError(
            f"--extractor: cannot write {partial} ({error.strerror}); {mend}"
        ) from None
    results = identity | summary(identity, [row], extractor)
    if out is not None:
        in_first(lambda: _write(out, identity, results))
    return results


def _begin(
    images: ImageSet, extractor: Extractor, reference: Reference, out: Path | None
) -> tuple[dict[str, Any], Path]:
    """Returns what the scores are computed of, and the directory of unfinished features.

    A file of something else is refused before the work.
    """
    identity = {
        "images": {"name": images.name, **images.provenance},
        "protocol": images.name,
        "n": len(images),
        **compared(extractor, reference),
    }
    if out is not None:
        _results(out, identity).read()
    return identity, image_sets.partial(images, extractor)


def _results(out: Path, identity: Mapping[str, Any]) -> Results:
    return Results(out.with_name(f"{out.name}.json"), identity, "scores")


def _write(out: Path, identity: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _results(out, identity).write(results)
    except OSError as error:
        raise InputError(
            f"--out: cannot write {out}.json ({error.strerror}); give another path"
        ) from None


def compared(extractor: Extractor, reference: Reference) -> dict[str, Any]:
    """Returns the extractor and the reference, as the JSON stores them."""
    return {
        "extractor": {**extractor.identity, "made": extractor.provenance},
        "reference": {"name": reference.name, **reference.provenance},
    }


def summary(
    identity: Mapping[str, Any], rows: Sequence[Mapping[str, float]], extractor: Extractor
) -> dict[str, Any]:
    """Returns the rows, their means and deviations, and the means by full name."""
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "seed"}
    mean = {name: float(np.mean(values)) for name, values in columns.items()}
    std = {}
    if len(rows) > 1:
        std = {name: float(np.std(values, ddof=1)) for name, values in columns.items()}
    full = metrics.named(
        mean,
        identity["n"],
        extractor.kind,
        identity["protocol"],
        identity["reference"]["name"],
        extractor.suffix,
    )
    return {"rows": list(rows), "mean": mean, "std": std, "metrics": full}
