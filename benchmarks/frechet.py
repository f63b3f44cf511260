"""What the scores say: of real images, of real images with noise or blur of rising strength, and of
runs.

    python benchmarks/frechet.py --data_dir=DIR --runs runs/plain runs/conditioned

CIFAR-10's test images against its training images are the floor; each disturbance should raise the
distances, and does or does not in the table that comes out. ``--n`` images a set, samples included,
as distances of different numbers are not comparable. In ``--out``: scores.jsonl (a row a set),
table.md, picture.png.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

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
from ddaepp_jax.scoring import by_name, image_sets, references
from ddaepp_jax.scoring.image_sets import ImageSet

NOISE = (4, 8, 16, 32, 64)  # standard deviations, in levels of 0..255
BLUR = (0.5, 0.75, 1.0, 1.5, 2.0)  # radii in pixels, of a Gaussian
SHOWN = 8  # images of a set in the picture

Disturb = Callable[[np.ndarray, np.random.RandomState], np.ndarray]


def noisy(deviation: float) -> Disturb:
    """Images with normal noise, rounded and clipped to 0..255."""

    def disturb(image: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
        return np.clip(
            np.round(image + deviation * rng.standard_normal(image.shape)), 0, 255
        ).astype(np.uint8)

    return disturb


def blurred(radius: float) -> Disturb:
    """Images under a Gaussian blur."""
    return lambda image, rng: np.asarray(
        Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius))
    )


def disturbed(images: ImageSet, name: str, disturb: Disturb) -> ImageSet:
    """The same images disturbed, each by its own draws."""

    def read(numbers: np.ndarray) -> np.ndarray:
        clean = images.read(numbers)
        return np.stack(
            [disturb(x, np.random.RandomState(i)) for x, i in zip(clean, numbers, strict=True)]
        )

    made = images.made | {"data": f"{images.made['data']} {name}"}
    return dataclasses.replace(images, name=f"{images.name}-{name}", made=made, read=read)


def program(argv: Sequence[str]) -> None:
    args = _parse(argv)
    start_backend()
    config, mesh = schema.get_config(), parallel.make_mesh((-1, 1, 1))
    config.data.update(name=args.data, data_dir=args.data_dir, eval_split="test")
    extractor = by_name.extractor(args.extractor, config, mesh)
    train, test = (fid.image_set(split, "--data", config, own=True) for split in ("train", "test"))
    reference = references.of(train, extractor, fid.BATCH, mesh)
    real = image_sets.subset(test, args.n)
    sets = {"real test images": real}
    sets |= {f"noise {x}": disturbed(real, f"noise{x}", noisy(x)) for x in NOISE}
    sets |= {f"blur {x:g}": disturbed(real, f"blur{x:g}", blurred(x)) for x in BLUR}
    args.out.mkdir(parents=True, exist_ok=True)
    rows = {
        name: fid.score_images(images, extractor, reference, fid.BATCH, mesh)
        for name, images in sets.items()
    }
    pictures = [images.read(np.arange(SHOWN)) for images in sets.values()]
    for workdir in args.runs:
        run, out = load(workdir), Path(workdir) / "fid" / f"benchmark-{args.n}"
        out.parent.mkdir(exist_ok=True)
        how = {"steps": args.steps}
        found = fid.score_run(run, extractor, reference, out, n=args.n, seeds=(0,), how=how)
        rows[Path(workdir).name] = found
        pictures.append(run.sample(n=SHOWN, **how))
    grid(np.concatenate(pictures), SHOWN).save(args.out / "picture.png")
    lines = [json.dumps({"set": name, **found, **machine()}) + "\n" for name, found in rows.items()]
    (args.out / "scores.jsonl").write_text("".join(lines))
    names = [name for name in rows["real test images"]["mean"] if not name.endswith("_std")]
    cells = [
        [name, *(f"{found['mean'][key]:.4f}" for key in names)] for name, found in rows.items()
    ]
    shown = [f"{extractor.kind}-{name}" for name in names]
    (args.out / "table.md").write_text(
        tabulate(cells, ["set", *shown], "github", disable_numparse=True) + "\n"
    )
    print((args.out / "table.md").read_text())


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("benchmarks.frechet", __doc__)
    add = parser.add_argument
    add(
        "--data",
        default="cifar10",
        help="a data set of TFDS with the splits train and test (cifar10)",
    )
    add("--data_dir", default="", help="prepared TFDS directory")
    add(
        "--extractor",
        default="classifier",
        help="inception, classifier, or an extractor's directory (classifier)",
    )
    add("--runs", nargs="*", default=(), help="run directories whose samples are scored too")
    add("--n", type=int, default=2000, help="images a set (2000)")
    add("--steps", type=int, help="of the runs' samplers (default: the configs')")
    add("--out", type=Path, default=Path(__file__).parent / "results" / "frechet")
    return parser.parse_args(argv)


if __name__ == "__main__":
    launch(program)
