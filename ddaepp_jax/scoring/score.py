"""Scores of images from elsewhere, and of a network's samples with one row for each seed."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.files import write_json
from ddaepp_jax.base.results import Results, partial_directory
from ddaepp_jax.sampling.settings import Sampling, modern_identity
from ddaepp_jax.scoring import image_sets, metrics
from ddaepp_jax.scoring.extractors import Extractor
from ddaepp_jax.scoring.image_sets import ImageSet
from ddaepp_jax.scoring.references import Reference


@dataclasses.dataclass(frozen=True)
class Samples:
    """A network's samples, with the names and settings under which their scores are stored.

    Attributes:
      draw: maps a seed and consecutive ids (B,) to images (B, H, W, C) uint8. Image i must be a
        function of (seed, i).
      image_shape: (H, W, C).
      num_classes: number of classes that the images take in turn; 0 if they have no labels.
      sampling: how the images are sampled.
      run: name of the run.
      step: training step of the weights.
      average: name of the average of the weights, as in ``ema0.9999``.
    """

    draw: Callable[[int, np.ndarray], np.ndarray]
    image_shape: tuple[int, int, int]
    num_classes: int
    sampling: Sampling
    run: str
    step: int
    average: str

    def images(self, seed: int, n: int) -> ImageSet:
        """Returns the first ``n`` samples of a seed as a set of images."""
        title = f"samples of seed {seed}"
        return image_sets.of_draw(lambda ids: self.draw(seed, ids), title, self.image_shape, n)


def score(
    images: ImageSet, extractor: Extractor, reference: Reference, directory: Path, batch_size: int
) -> dict[str, float]:
    """Computes the scores of images.

    Args:
      images: the images to score.
      extractor: the network whose features are compared.
      reference: the reference with which the images are compared, by the same extractor.
      directory: directory of the features. A stopped call is continued from it; the caller removes
        it.
      batch_size: number of images that are read at once.

    Returns:
      Scores by name; see ``metrics.scores``.

    Raises:
      InputError: the images can't be scored; see ``image_sets.collect``.
    """
    features = image_sets.collect(images, extractor, directory, batch_size)
    return metrics.scores(features, reference)


def score_images(
    images: ImageSet,
    extractor: Extractor,
    reference: Reference,
    batch_size: int,
    out: Path | None = None,
) -> dict[str, Any]:
    """Scores images from elsewhere.

    Args:
      images, extractor, reference, batch_size: as in ``score``.
      out: path of the JSON file, without suffix; None writes no file.

    Returns:
      The same keys as ``score_samples`` returns, with a single row that has no seed, and with
      "images" instead of "run", "step" and "sampling".

    Raises:
      InputError: the images can't be scored, or a file can't be written.
    """
    partial = extractor.directory / "partial" / f"{images.slug}{extractor.suffix}"
    try:
        row = score(images, extractor, reference, partial, batch_size)
        shutil.rmtree(partial)
    except OSError as error:
        raise InputError(
            f"--extractor: cannot write {partial} ({error.strerror}); copy the extractor to a "
            "directory that you can write, and give that by --extractor"
        ) from None
    identity = {
        "images": {"name": images.name, **images.provenance},
        "protocol": images.name,
        "n": len(images),
        **_compared(extractor, reference),
    }
    results = identity | _summary(identity, [row], extractor)
    if out is not None:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_json(out.with_name(f"{out.name}.json"), results)
        except OSError as error:
            raise InputError(
                f"--out: cannot write {out}.json ({error.strerror}); give another path"
            ) from None
    return results


def score_samples(
    samples: Samples,
    extractor: Extractor,
    reference: Reference,
    out: Path,
    *,
    n: int,
    seeds: Sequence[int],
    npz: bool = False,
) -> dict[str, Any]:
    """Samples a network and scores the samples of each seed.

    ``out``.json is written after every seed. A later call with the same settings adds its seeds to
    the file, and continues in the middle of a seed where an earlier call stopped.

    Args:
      samples: the network's samples.
      extractor: the network whose features are compared.
      reference: the reference with which the samples are compared.
      out: path of the results, without suffix.
      n: number of samples of each seed.
      seeds: seeds of the samples' start noise.
      npz: also write the samples to ``out``-seed<SEED>.npz, in the form of ADM's evaluator.

    Returns:
      The content of the JSON file: the settings; "rows", one for each seed; "mean" and "std" over
      the rows; "metrics", the means by their full names.

    Raises:
      InputError: ``out`` holds scores with other settings, or can't be written; or as ``score``.
    """
    identity = {
        "step": samples.step,
        "protocol": f"{samples.average}/{samples.sampling.tag}",
        "sampling": samples.sampling.identity,
        "n": n,
        **_compared(extractor, reference),
    }
    results = Results(out.with_name(f"{out.name}.json"), identity, "scores", modern=_modern)
    written = results.read("rows") or {"rows": []}
    rows = {row["seed"]: row for row in written["rows"]}
    try:
        for seed in seeds:
            pictures = out.with_name(f"{out.name}-seed{seed}.npz")
            if seed in rows and (not npz or pictures.exists()):
                continue
            partial = partial_directory(pictures.with_suffix(""), results.identity | {"npz": npz})
            images = samples.images(seed, n)
            if npz:
                memory = _memory(partial / "images.npy", (n, *samples.image_shape))
                images = _keeping(images, memory)
            values = score(images, extractor, reference, partial, samples.sampling.batch_size)
            rows[seed] = {"seed": seed, **values}
            if npz:
                _save(pictures, memory, samples.num_classes)
            summary = _summary(results.identity, [*rows.values()], extractor)
            results.write({"run": samples.run, **summary})
            shutil.rmtree(partial)
    except OSError as error:
        raise InputError(f"--out: cannot write {out} ({error.strerror}); give another") from None
    summary = _summary(results.identity, [*rows.values()], extractor)
    return {**results.identity, "run": samples.run, **summary}


def _modern(identity: dict[str, Any]) -> dict[str, Any]:
    return identity | {"sampling": modern_identity(identity["sampling"])}


def _compared(extractor: Extractor, reference: Reference) -> dict[str, Any]:
    """Returns the extractor and the reference, as the JSON stores them."""
    return {
        "extractor": {**extractor.identity, "made": extractor.provenance},
        "reference": {"name": reference.name, **reference.provenance},
    }


def _summary(
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


def _keeping(images: ImageSet, memory: np.ndarray) -> ImageSet:
    """Returns the same images, which are written into ``memory`` (N, H, W, C) when read."""

    def read(ids: np.ndarray) -> np.ndarray:
        memory[ids] = images.read(ids)
        return memory[ids]

    return dataclasses.replace(images, read=read)


def _memory(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Opens a file of uint8 images; it keeps the images of an earlier call."""
    mode = "r+" if file.exists() else "w+"
    return np.lib.format.open_memmap(file, mode, np.uint8, shape)


def _save(file: Path, images: np.ndarray, num_classes: int) -> None:
    """Writes samples in the form of ADM's evaluator: ``arr_0``, and labels as ``arr_1``."""
    labels = {"arr_1": np.arange(len(images)) % num_classes} if num_classes else {}
    np.savez(file, arr_0=images, **labels)
