"""Scores of a network's samples, with one row for each seed."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.numbers import finite, whole
from ddaepp_jax.base.processes import from_first, in_first
from ddaepp_jax.base.results import Results
from ddaepp_jax.base.unfinished import partial_directory, workspace
from ddaepp_jax.sampling.settings import Sampling, modern_identity
from ddaepp_jax.scoring import image_sets
from ddaepp_jax.scoring.extractors import Extractor
from ddaepp_jax.scoring.image_sets import ImageSet
from ddaepp_jax.scoring.references import Reference
from ddaepp_jax.scoring.score import compared, score, summary

LOGITS_COPIES = 3  # float64 arrays like the logits that the Inception Score holds at once


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
      weights: hashes of the weights, of "run" and of its "guide" if it has one.
    """

    draw: Callable[[int, np.ndarray], np.ndarray]
    image_shape: tuple[int, int, int]
    num_classes: int
    sampling: Sampling
    run: str
    step: int
    average: str
    weights: Mapping[str, str]

    def images(self, seed: int, n: int) -> ImageSet:
        """Returns the first ``n`` samples of a seed as a set of images."""
        title = f"samples of seed {seed}"
        return image_sets.of_draw(lambda ids: self.draw(seed, ids), title, self.image_shape, n)


def score_samples(
    samples: Samples,
    extractor: Extractor,
    reference: Reference | None,
    out: Path,
    *,
    n: int,
    seeds: Sequence[int],
    npz: bool = False,
) -> dict[str, Any]:
    """Samples a network and scores the samples of each seed.

    ``out``.json is written after every seed. A later call with the same settings adds its seeds to
    the file, and continues in the middle of a seed where an earlier call stopped. All processes
    call it; process 0 reads and writes the files, and compares.

    Args:
      samples: the network's samples.
      extractor: the network whose features are compared.
      reference: the reference with which the samples are compared; process 0 alone needs it.
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
    scoring = _Scoring(samples, extractor, reference, out, n, npz)
    missing = lambda: from_first(lambda: scoring.missing(seeds))
    if missing():
        try:
            with workspace(unfinished(out), "wait, or give another --out") as directory:
                for seed in missing():  # Another program may have added some meanwhile.
                    scoring.add(seed, directory)
        except OSError as error:
            raise InputError(
                f"--out: cannot write {out} ({error.strerror}); give another"
            ) from None
    return from_first(lambda: scoring.content(scoring.finished()))


def unfinished(out: Path) -> Path:
    """Returns the directory of the work that ``score_samples`` left unfinished for ``out``."""
    return out.with_name(f"{out.name}-partial")


def check_space(
    samples: Samples, extractor: Extractor, out: Path, *, n: int, seeds: int, npz: bool
) -> None:
    """Refuses more samples than the disk and the memory hold, before work for them begins.

    Args:
      samples, extractor, out, n, npz: as in ``score_samples``.
      seeds: number of seeds.

    Raises:
      InputError: the features, or the samples with ``npz``, do not fit the disk, or the Inception
        Score does not fit the memory.
    """
    memory = n * extractor.widths["logits"] * 8 * LOGITS_COPIES
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if memory > total:
        raise InputError(
            f"--n: scores of {n} samples need {memory / 2**30:.1f} GiB of memory, and the machine "
            f"has {total / 2**30:.1f} GiB; give fewer"
        )
    if unfinished(out).exists():
        return  # A part of them is on the disk already.
    images = (seeds + 1) * n * prod(samples.image_shape) if npz else 0
    needed = images + 4 * n * sum(extractor.widths.values())
    home = next(parent for parent in out.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(home).free
    if needed > free:
        raise InputError(
            f"--n: {n} samples need {needed / 2**30:.1f} GiB in {home}, where "
            f"{free / 2**30:.1f} GiB are free; give fewer, or another --out"
        )


@dataclasses.dataclass(frozen=True)
class _Finished:
    """The seeds that are finished.

    Attributes:
      rows: scores by seed.
      pictured: seeds whose samples lie in their files.
      npz: whether a seed is finished only with its samples.
    """

    rows: dict[int, dict[str, float]]
    pictured: set[int]
    npz: bool

    def holds(self, seed: int) -> bool:
        """Returns whether a seed is finished."""
        return seed in self.rows and (seed in self.pictured or not self.npz)


@dataclasses.dataclass(frozen=True)
class _Scoring:
    """The arguments of ``score_samples``, and what is done for each seed.

    All processes call ``add``; the rest is for process 0.
    """

    samples: Samples
    extractor: Extractor
    reference: Reference | None
    out: Path
    n: int
    npz: bool

    @cached_property
    def results(self) -> Results:
        """The file of the scores."""
        identity = {
            "step": self.samples.step,
            "weights": dict(self.samples.weights),
            "protocol": f"{self.samples.average}/{self.samples.sampling.tag}",
            "sampling": self.samples.sampling.identity,
            "n": self.n,
            **compared(self.extractor, self.reference),
        }
        return Results(
            self.out.with_name(f"{self.out.name}.json"), identity, "scores", modern=_modern
        )

    def pictures(self, seed: int) -> Path:
        """Returns the file of a seed's samples."""
        return self.out.with_name(f"{self.out.name}-seed{seed}.npz")

    def missing(self, seeds: Sequence[int]) -> list[int]:
        """Returns the seeds that are not finished."""
        finished = self.finished()
        return [seed for seed in seeds if not finished.holds(seed)]

    def finished(self) -> _Finished:
        """Reads what is finished, and checks it."""
        content = self.results.read("rows") or {"rows": []}
        try:
            rows = {row["seed"]: dict(row) for row in content["rows"]}
            written = {seed for seed in content.get("npz", ()) if self.pictures(seed).exists()}
        except (KeyError, TypeError, ValueError):
            raise self._damaged() from None
        self._check(rows)
        return _Finished(rows, written, self.npz)

    def _check(self, rows: Mapping[int, Mapping[str, float]]) -> None:
        """Refuses rows with different scores, or with what is no finite number."""
        columns = {frozenset(row) for row in rows.values()}
        if len(columns) > 1 or not all("score" in names for names in columns):
            raise self._damaged()
        try:
            for row in rows.values():
                whole("seed", row["seed"], 0, 2**32 - 1)
                for name, value in row.items():
                    finite(name, value)
        except InputError:
            raise self._damaged() from None

    def _damaged(self) -> InputError:
        file = self.results.file
        return InputError(
            f"{file}: has rows that are no scores of this program; remove it or give another --out"
        )

    def add(self, seed: int, directory: Path) -> None:
        """Scores a seed's samples and writes the file; unfinished work is in ``directory``."""
        partial = from_first(
            lambda: partial_directory(
                directory / f"seed{seed}", self.results.identity | {"npz": self.npz}
            )
        )
        images = self.samples.images(seed, self.n)
        memory = None
        if self.npz:
            memory = in_first(
                lambda: _memory(partial / "images.npy", (self.n, *images.image_shape))
            )
            images = _keeping(images, memory)
        batch_size = self.samples.sampling.batch_size
        values = score(images, self.extractor, self.reference, partial / "features", batch_size)
        in_first(lambda: self._write(seed, values, partial, memory))

    def _write(
        self, seed: int, values: Mapping[str, float], partial: Path, memory: np.ndarray | None
    ) -> None:
        """Adds a seed to the file, and removes the directory of its unfinished work."""
        finished = self.finished()
        finished.rows[seed] = {"seed": seed, **values}
        self._check(finished.rows)
        if memory is not None:
            _save(self.pictures(seed), partial, memory, self.samples.num_classes)
            finished.pictured.add(seed)
        self.results.write(self.content(finished))
        shutil.rmtree(partial)

    def content(self, finished: _Finished) -> dict[str, Any]:
        """Returns the content of the file."""
        identity = self.results.identity
        written = sorted(finished.pictured)
        content = {**identity, "run": self.samples.run, "npz": written}
        return content | summary(identity, [*finished.rows.values()], self.extractor)


def _modern(identity: dict[str, Any]) -> dict[str, Any]:
    return identity | {"sampling": modern_identity(identity["sampling"])}


def _keeping(images: ImageSet, memory: np.ndarray | None) -> ImageSet:
    """Returns the same images, which process 0 writes into ``memory`` (N, H, W, C) when read."""

    def read(ids: np.ndarray) -> np.ndarray:
        pixels = images.read(ids)
        if memory is not None:
            memory[ids] = pixels
            memory.flush()  # They reach the disk before their features count.
        return pixels

    return dataclasses.replace(images, read=read)


def _memory(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Opens a file of uint8 images, which keeps the images of an earlier call.

    If the file is damaged, the features beside it are removed too, so that all are made anew.
    """
    try:
        whole = np.load(file, mmap_mode="r").shape == shape
    except (OSError, ValueError):
        whole = False
    if not whole:
        shutil.rmtree(file.parent / "features", ignore_errors=True)
    return np.lib.format.open_memmap(file, "r+" if whole else "w+", np.uint8, shape)


def _save(file: Path, partial: Path, images: np.ndarray, num_classes: int) -> None:
    """Writes samples in the form of ADM's evaluator: ``arr_0``, and labels as ``arr_1``.

    They are written in the directory ``partial`` first, so that ``file`` is never a part of them.
    """
    labels = {"arr_1": np.arange(len(images)) % num_classes} if num_classes else {}
    np.savez(partial / "images.npz", arr_0=images, **labels)
    os.replace(partial / "images.npz", file)
