"""Scores a run's samples, or images from elsewhere, against a reference.

    python -m ddaepp_jax.fid --workdir=runs/uvit_cifar                    # FID of 50,000 samples
    python -m ddaepp_jax.fid --workdir=runs/uvit_cifar --n=5000 --seeds=0,1,2 --extractor=classifier
    python -m ddaepp_jax.fid --images=samples.npz --reference=cifar10:train --data_dir=DIR
    python -m ddaepp_jax.fid --images=samples/ --reference=VIRTUAL_imagenet256_labeled.npz \\
        --resizing=tensorflow1

One pass computes FID, sFID, Inception Score, KID, precision and recall (k = 3). Images and
references are .npz files, folders, or splits of data sets, NAME:SPLIT. Inception's weights come
from `python -m ddaepp_jax.convert --kind=inception-fid`. Without them, --extractor=classifier uses
the features of a classifier of the data, which is trained once: a meaningful Frechet distance, but
no FID. The same command again resumes; more --seeds are added to those in the file.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.cli.arguments import (
    Parser,
    add_run,
    add_sampling,
    comma_separated,
    open_run,
    path,
    sampling,
    source,
)
from ddaepp_jax.cli.start import launch, start_backend
from ddaepp_jax.scoring import FEWEST

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from ddaepp_jax.run import Run

N = 50_000  # samples of a seed, as in the literature
BATCH = 64  # images read at once
# Arguments that choose or sample a run, and mean nothing for --images.
RUN_ONLY = ("step", "decay", "sigma_rel", "guidance", "guidance_interval", "guidance_channels")
RUN_ONLY += ("guide", "sampler", "steps", "options", "autoguidance", "seeds", "npz")


def main(argv: Sequence[str]) -> None:
    args = _parse(argv)
    from ddaepp_jax.base.parallel import make_mesh
    from ddaepp_jax.reporting.scores import table
    from ddaepp_jax.scoring import by_name, image_sets
    from ddaepp_jax.scoring.score import score_images, score_samples

    start_backend()
    run = open_run(args) if args.workdir else None
    config = _config(args, run)
    mesh = run.mesh if run else make_mesh((-1, 1, 1))
    batch_size = args.batch_size or BATCH
    if not run:
        images = by_name.image_set(args.images, "--images", config, own=False)
        images = images if args.n is None else image_sets.subset(images, args.n)
    data = by_name.ClassifierData.of_config(config)
    extractor = by_name.extractor(args.extractor, data, mesh, args.resizing)
    if run:
        extractor.check(run.image_shape, "--workdir")
    else:
        extractor.check(images.image_shape, "--images")
    text = args.reference or config.data.split
    reference = by_name.reference(text, config, run is not None, extractor, batch_size)
    if not run:
        out = Path(args.out) if args.out else None
        results = score_images(images, extractor, reference, batch_size, out)
    else:
        drawn = run.samples(**sampling(args))
        n = args.n or N
        tag = f"{drawn.sampling.tag}-{n}-{extractor.kind}{extractor.suffix}-{reference.name}"
        out = Path(args.out or run.workdir / "fid" / f"step{run.step}-{run.average}-{tag}")
        results = score_samples(
            drawn, extractor, reference, out, n=n, seeds=args.seeds, npz=args.npz
        )
        print(f"all numbers are in {out}.json")
    print(table(results))


def _config(args: argparse.Namespace, run: "Run | None") -> "ConfigDict":
    """Returns the config by which data are read: the run's, or a config of the reference's data."""
    from ddaepp_jax import build
    from ddaepp_jax import config as schema
    from ddaepp_jax.config import validation

    config = run.config.copy_and_resolve_references() if run else schema.get_config()
    if config.data.name == build.LATENTS:
        raise InputError(
            "--workdir: the run is on latents, and without their autoencoder there are no images "
            "to score; give another run"
        )
    if not run and ":" in args.reference:
        config.data.name = args.reference.rpartition(":")[0]
    if args.data_dir is not None:
        config.data.data_dir = str(args.data_dir)
    if args.size is not None:
        config.data.size = args.size
        validation.validate(config)
    return config


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("ddaepp_jax.fid", __doc__)
    add = parser.add_argument
    add_run(parser, required=False)
    add(
        "--images",
        type=source,
        help="instead of a run: an .npz file (arr_0 or images), a folder or NAME:SPLIT",
    )
    add(
        "--reference",
        type=source,
        help="an .npz file of statistics (this program's, ADM's or EDM's) or of "
        "images, a folder, NAME:SPLIT, or a split of the run's data (the run's training split)",
    )
    add(
        "--extractor",
        type=source,
        default="inception",
        help="inception, classifier or a directory (inception)",
    )
    add("--resizing", help="for Inception: pytorch, or tensorflow1 as ADM and EDM use (pytorch)")
    add("--n", type=int, help=f"samples of each seed ({N}), or a random subset of --images (all)")
    add("--seeds", type=comma_separated(int), default=(0,), help="seeds of the start noise (0)")
    add("--npz", action="store_true", help="also write the samples, for ADM's evaluator")
    add("--data_dir", type=path, help="folder of the data (the config's)")
    add(
        "--size",
        type=comma_separated(int),
        help="HEIGHT,WIDTH to crop data to (the run's; as stored)",
    )
    add_sampling(parser)
    add(
        "--out",
        type=path,
        help="path of the JSON, without suffix (WORKDIR/fid/NAME; for --images: none)",
    )
    args = parser.parse_args(argv)
    if bool(args.workdir) == bool(args.images):
        raise InputError("--workdir, --images: give exactly one, the images to score")
    if args.images and not args.reference:
        raise InputError("--reference: missing; give what to compare with, e.g. cifar10:train")
    unread = [f"--{name}" for name in RUN_ONLY if getattr(args, name) != parser.get_default(name)]
    if args.images and unread:
        raise InputError(f"{', '.join(unread)}: for a run, not for --images; leave them out")
    if args.images and ":" not in args.reference and args.extractor == "classifier":
        raise InputError(
            "--extractor: 'classifier' needs the data that it learns; name them by "
            "--reference=NAME:SPLIT, or give the classifier's directory"
        )
    if args.workdir and args.n is not None and args.n < FEWEST:
        raise InputError(f"--n: {args.n} images are too few to score; give {FEWEST} or more")
    different = len(set(args.seeds)) == len(args.seeds)
    if not different or any(seed not in range(2**32) for seed in args.seeds):
        raise InputError(f"--seeds: {args.seeds} is wrong; give different numbers in 0..2**32-1")
    return args


if __name__ == "__main__":
    launch(main)
