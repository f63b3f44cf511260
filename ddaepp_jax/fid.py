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
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.files import check_writable
from ddaepp_jax.cli.arguments import (
    Parser,
    add_processes,
    add_run,
    add_sampling,
    add_size,
    comma_separated,
    open_run,
    output,
    path,
    sampling,
    size,
    source,
    start,
)
from ddaepp_jax.cli.start import launch
from ddaepp_jax.scoring import FEWEST

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from ddaepp_jax.run import Run
    from ddaepp_jax.scoring.extractors import Extractor
    from ddaepp_jax.scoring.image_sets import ImageSet
    from ddaepp_jax.scoring.samples import Samples

N = 50_000  # samples of a seed, as in the literature
BATCH = 64  # images read at once
MOST_SEEN = 10**9  # images that the training of a classifier may see
# Arguments that choose or sample a run, and mean nothing for --images.
RUN_ONLY = ("step", "decay", "sigma_rel", "guidance", "guidance_interval", "guidance_channels")
RUN_ONLY += ("guide", "sampler", "steps", "options", "autoguidance", "seeds", "npz")


def main(argv: Sequence[str]) -> None:
    args = _parse(argv)
    from ddaepp_jax.base.parallel import make_mesh
    from ddaepp_jax.base.processes import in_first, together
    from ddaepp_jax.reporting.scores import table
    from ddaepp_jax.scoring import by_name, references

    start(args)
    if args.out is not None:
        in_first(lambda: _check_out(args.out, "--out", "give another path"))
    run = open_run(args) if args.workdir else None
    config = _config(args, run)
    field = "--workdir" if run else "--images"
    scored = run.samples(**sampling(args)) if run else together(lambda: _images(args, config))
    source = together(
        lambda: by_name.reference_source(args.reference or config.data.split, config, bool(run))
    )
    together(lambda: references.check_comparable(scored.image_shape, source, field))
    data = by_name.ClassifierData.of_config(config, args.classifier_images)
    mesh = run.mesh if run else make_mesh((-1, 1, 1))
    extractor = by_name.extractor(args.extractor, data, mesh, args.resizing)
    extractor.check(scored.image_shape, field)
    if run:
        results = _score_run(args, run, scored, extractor, source)
    else:
        results = _score_images(args, scored, extractor, source)
    print(table(results))


def _images(args: argparse.Namespace, config: "ConfigDict") -> "ImageSet":
    """Opens the images of ``--images``."""
    from ddaepp_jax.scoring import by_name, image_sets

    images = by_name.image_set(args.images, "--images", config, own=False)
    image_sets.check_count(images, "--images")
    return images if args.n is None else image_sets.subset(images, args.n)


def _score_images(
    args: argparse.Namespace, images: "ImageSet", extractor: "Extractor", source: "Path | ImageSet"
) -> dict[str, Any]:
    from ddaepp_jax.base.processes import in_first
    from ddaepp_jax.scoring import by_name
    from ddaepp_jax.scoring.score import score_images

    batch_size = args.batch_size or BATCH
    reference = by_name.reference(source, extractor, batch_size)

    def note() -> None:
        facts = reference.provenance.get("images", {})
        if facts.get("fingerprint") == images.provenance["fingerprint"]:
            print("note: --images and --reference are the same images", file=sys.stderr)

    in_first(note)
    return score_images(images, extractor, reference, batch_size, args.out)


def _score_run(
    args: argparse.Namespace,
    run: "Run",
    samples: "Samples",
    extractor: "Extractor",
    source: "Path | ImageSet",
) -> dict[str, Any]:
    from ddaepp_jax.base.processes import from_first, in_first
    from ddaepp_jax.scoring import by_name, references
    from ddaepp_jax.scoring.samples import check_space, score_samples

    n = args.n or N
    seeds = args.seeds
    out = args.out
    if out is None:
        name, _ = from_first(lambda: references.described(source))
        tag = f"{samples.sampling.tag}-{n}-{extractor.kind}{extractor.suffix}-{name}"
        out = run.workdir / "fid" / f"step{run.step}-{run.average}-{tag}".replace("/", "_")
        in_first(lambda: _check_out(out, "--workdir", "give another place by --out"))
    in_first(lambda: check_space(samples, extractor, out, n=n, seeds=len(seeds), npz=args.npz))
    reference = by_name.reference(source, extractor, args.batch_size or BATCH)
    results = score_samples(samples, extractor, reference, out, n=n, seeds=seeds, npz=args.npz)
    print(f"all numbers are in {out}.json")
    return results


def _check_out(out: Path, field: str, mend: str) -> None:
    """Refuses results that could not be written; finished ones need no writing."""
    if out.is_dir():
        raise InputError(f"{field}: {out} is a folder; give the path of a file in it")
    if not out.with_name(f"{out.name}.json").exists():
        check_writable(out.parent, field, mend)


def _config(args: argparse.Namespace, run: "Run | None") -> "ConfigDict":
    """Returns the config by which data are read: the run's, or a config of the reference's data."""
    from ddaepp_jax import build
    from ddaepp_jax import config as schema
    from ddaepp_jax.run.pictures import config_of

    config = run.config.copy_and_resolve_references() if run else schema.get_config()
    if config.data.name == build.LATENTS:
        if run.pictures.source is None:
            raise InputError(
                "--workdir: this run does not name the images of its latents; score its samples by "
                "--images and --reference"
            )
        config = config_of(config, run.pictures.source)
    if not run and ":" in args.reference:
        config.data.name = args.reference.rpartition(":")[0]
    if args.data_dir is not None:
        config.data.data_dir = str(args.data_dir)
    if any(size(args)):
        config.data.size = size(args)
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
    add_size(parser)
    add_sampling(parser)
    add(
        "--classifier_images",
        type=int,
        help="images that the training of --extractor=classifier sees, counting repetitions; fewer "
        "are quicker (ten times those of the data, in 10,000..500,000)",
    )
    add(
        "--out",
        type=output,
        help="path of the JSON, without suffix (WORKDIR/fid/NAME; for --images: none)",
    )
    add_processes(parser)
    args = parser.parse_args(argv)
    unread = [f"--{name}" for name in RUN_ONLY if getattr(args, name) != parser.get_default(name)]
    if args.images and unread:
        raise InputError(f"{', '.join(unread)}: for a run, not for --images; leave them out")
    _check(args)
    return args


def _check(args: argparse.Namespace) -> None:
    """Refuses arguments that are wrong by themselves or together, before anything is opened."""
    if bool(args.workdir) == bool(args.images):
        raise InputError("--workdir, --images: give exactly one, the images to score")
    if args.images and not args.reference:
        raise InputError("--reference: missing; give what to compare with, e.g. cifar10:train")
    if args.images and ":" not in args.reference and args.extractor == "classifier":
        raise InputError(
            "--extractor: 'classifier' needs the data that it learns; name them by "
            "--reference=NAME:SPLIT, or give the classifier's directory"
        )
    if args.n is not None and args.n < FEWEST:
        raise InputError(f"--n: {args.n} images are too few to score; give {FEWEST} or more")
    if args.batch_size is not None and args.batch_size < 1:
        raise InputError(f"--batch_size: {args.batch_size} is not positive; give 1 or more")
    if args.classifier_images is not None:
        if args.extractor != "classifier":
            raise InputError(
                "--classifier_images: for --extractor=classifier, not for another; leave it out"
            )
        if not 1 <= args.classifier_images <= MOST_SEEN:
            raise InputError(
                f"--classifier_images: {args.classifier_images} is not in 1..{MOST_SEEN}; give "
                "another number, or leave it out"
            )
    different = len(set(args.seeds)) == len(args.seeds)
    if not different or any(seed not in range(2**32) for seed in args.seeds):
        raise InputError(f"--seeds: {args.seeds} is wrong; give different numbers in 0..2**32-1")


if __name__ == "__main__":
    launch(main)
