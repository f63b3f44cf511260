"""Scores real images, disturbed real images and samples of runs, to check the scores themselves.

    python benchmarks/frechet.py --data_dir=DIR --runs runs/plain runs/conditioned

The score of CIFAR-10's test images, compared with its training images, is the floor. Noise and blur
of rising strength should raise the distances; the table shows whether they do. Every set has
``--n`` images, including samples, because distances of different numbers of images are not
comparable. ``--out`` gets scores.jsonl (a row for each set), table.md and picture.png.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from PIL import Image, ImageFilter
from tabulate import tabulate

from ddaepp_jax import config as schema
from ddaepp_jax import fid, load
from ddaepp_jax.base import parallel
from ddaepp_jax.cli.arguments import Parser
from ddaepp_jax.cli.start import launch, start_backend
from ddaepp_jax.reporting.pictures import grid
from ddaepp_jax.scoring import by_name, image_sets
from ddaepp_jax.scoring.image_sets import ImageSet
from ddaepp_jax.scoring.samples import score_samples
from ddaepp_jax.scoring.score import score_images

NOISE = (4, 8, 16, 32, 64)  # standard deviations, in levels of 0..255
BLUR = (0.5, 0.75, 1.0, 1.5, 2.0)  # radii of a Gaussian, in pixels
SHOWN = 8  # images of each set in the picture

Disturb = Callable[[np.ndarray, np.random.RandomState], np.ndarray]


def noisy(deviation: float) -> Disturb:
    """Returns a function that adds normal noise, rounds, and clips to 0..255."""

    def disturb(image: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
        noise = deviation * rng.standard_normal(image.shape)
        return np.clip(np.round(image + noise), 0, 255).astype(np.uint8)

    return disturb


def blurred(radius: float) -> Disturb:
    """Returns a function that applies a Gaussian blur."""

    def disturb(image: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
        picture = Image.fromarray(image.squeeze())  # Pillow's grey images have no channel axis.
        return np.asarray(picture.filter(ImageFilter.GaussianBlur(radius))).reshape(image.shape)

    return disturb


def disturbed(images: ImageSet, name: str, disturb: Disturb) -> ImageSet:
    """Returns the disturbed images; the random numbers of image i depend on i only."""

    def read(ids: np.ndarray) -> np.ndarray:
        clean = images.read(ids)
        return np.stack(
            [disturb(x, np.random.RandomState(i)) for x, i in zip(clean, ids, strict=True)]
        )

    source = images.source | {"data": f"{images.source['data']} {name}"}
    name = f"{images.name}-{name}"
    return dataclasses.replace(images, name=name, source=source, read=read)


def program(argv: Sequence[str]) -> None:
    args = _parse(argv)
    start_backend()
    config = schema.get_config()
    config.data.update(name=args.data, data_dir=args.data_dir, eval_split="test")
    mesh = parallel.make_mesh((-1, 1, 1))
    data = by_name.ClassifierData.of_config(config)
    extractor = by_name.extractor(args.extractor, data, mesh)
    source = by_name.reference_source("train", config, own=True)
    reference = by_name.reference(source, extractor, fid.BATCH)
    test = by_name.image_set("test", "--data", config, own=True)
    real = image_sets.subset(test, args.n)
    sets = {"real test images": real}
    sets |= {f"noise {x}": disturbed(real, f"noise{x}", noisy(x)) for x in NOISE}
    sets |= {f"blur {x:g}": disturbed(real, f"blur{x:g}", blurred(x)) for x in BLUR}
    args.out.mkdir(parents=True, exist_ok=True)
    results = {
        name: score_images(images, extractor, reference, fid.BATCH) for name, images in sets.items()
    }
    pictures = [images.read(np.arange(SHOWN)) for images in sets.values()]
    for workdir in map(Path, args.runs):
        run = load(workdir)
        samples = run.samples(steps=args.steps)
        out = workdir / "fid" / f"benchmark-{args.n}"
        results[workdir.name] = score_samples(
            samples, extractor, reference, out, n=args.n, seeds=(0,)
        )
        pictures.append(run.sample(n=SHOWN, steps=args.steps))
    grid(np.concatenate(pictures), SHOWN).save(args.out / "picture.png")
    rows = [{"set": name, **result, **machine()} for name, result in results.items()]
    (args.out / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = table(results, extractor.kind)
    (args.out / "table.md").write_text(text + "\n")
    print(text)


def table(results: Mapping[str, Mapping[str, Any]], kind: str) -> str:
    """Returns a table in Markdown, with a row for each set and a column for each score."""
    first = next(iter(results.values()))
    names = [name for name in first["mean"] if not name.endswith("_std")]
    cells = [
        [name, *(f"{result['mean'][score]:.4f}" for score in names)]
        for name, result in results.items()
    ]
    titles = [f"{kind}-{name}" for name in names]
    return tabulate(cells, ["set", *titles], "github", disable_numparse=True)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("benchmarks.frechet", __doc__)
    add = parser.add_argument
    add("--data", default="cifar10", help="a data set of TFDS with splits train and test (cifar10)")
    add("--data_dir", default="", help="prepared TFDS directory")
    add(
        "--extractor",
        default="classifier",
        help="inception, classifier, or an extractor's directory (classifier)",
    )
    add("--runs", nargs="*", default=(), help="run directories whose samples are scored too")
    add("--n", type=int, default=2000, help="images of each set (2000)")
    add("--steps", type=int, help="steps of the runs' samplers (default: the config's)")
    add("--out", type=Path, default=Path(__file__).parent / "results" / "frechet")
    return parser.parse_args(argv)


if __name__ == "__main__":
    launch(program)
