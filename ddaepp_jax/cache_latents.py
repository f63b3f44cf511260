"""Encodes a data set by an autoencoder: latents on disk, from which networks are trained.

    python -m ddaepp_jax.cache_latents --autoencoder=va-vae --data=imagenet2012 --size=256,256 \\
        --out=latents/imagenet_256 --split=train,validation
    python -m ddaepp_jax.cache_latents --autoencoder=taesd --data=folder --data_dir=photos \\
        --size=256,256 --out=latents/photos
    python -m ddaepp_jax.main --config=configs/dit_b_imagenet.py --workdir=runs/dit_b \\
        --config.data.data_dir=latents/imagenet_256

Images are cropped as in ADM. The moments of an image and of its mirror image are stored as float16,
with a checksum. The same command again goes on where it was stopped; several processes share the
work. Statistics of the channels are in OUT/SPLIT/header.json.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.cli.arguments import (
    Parser,
    add_processes,
    add_size,
    comma_separated,
    path,
    size,
    start,
)
from ddaepp_jax.cli.start import launch

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from ddaepp_jax.data.caching import Job
    from ddaepp_jax.data.latents import Header


def main(argv: Sequence[str]) -> None:
    """Caches by the arguments of a command line."""
    args = _parse(argv)
    start(args)
    from ddaepp_jax.run.latents import make_job

    for split in args.split:
        job = make_job(_config(args, split), args.autoencoder, args.batch_size, args.dtype)
        _cache(job, args.out / split)


def _cache(job: "Job", directory: Path) -> None:
    """Caches a split, and prints what it costs before and what came of it."""
    from ddaepp_jax.base.processes import is_first
    from ddaepp_jax.data import caching

    if is_first():
        print(job.data.described, flush=True)
    if not directory.exists():
        duration = caching.seconds(job)
        if is_first():
            print(
                f"{job.nbytes / 2**30:.2f} GiB of latents {_shape(job)} in {job.shards} shards; "
                f"about {_duration(duration)} at {len(job.data) / duration:.0f} images a second",
                flush=True,
            )
    header = caching.cache(job, directory)
    if is_first():
        print(_summary(header, directory), flush=True)


def _shape(job: "Job") -> str:
    return "x".join(map(str, job.encoding.latent_shape))


def _duration(seconds: float) -> str:
    """Formats a time for people."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _summary(header: "Header", directory: Path) -> str:
    """Says what the latents are, and warns of a normalisation that does not fit them."""
    lines = [
        f"{header.images} latents are in {directory}; their channels have means from "
        f"{min(header.mean):.2f} to {max(header.mean):.2f} and deviations from "
        f"{min(header.std):.2f} to {max(header.std):.2f}"
    ]
    scales = header.normalisation.scale * (len(header.std) // len(header.normalisation.scale))
    after = [std * scale for std, scale in zip(header.std, scales, strict=True)]
    if not 0.5 < min(after) <= max(after) < 2:
        lines.append(
            f"warning: normalised by the autoencoder's own numbers, deviations are from "
            f"{min(after):.2f} to {max(after):.2f}; a network learns best where they are 1"
        )
    return "\n".join(lines)


def _config(args: argparse.Namespace, split: str) -> "ConfigDict":
    """Returns a config that names the images."""
    from ddaepp_jax import config as schema

    config = schema.get_config()
    names = dict(name=args.data, split=split, data_dir=str(args.data_dir or ""))
    config.data.update(**names, size=size(args))
    return config


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("ddaepp_jax.cache_latents", __doc__)
    add = parser.add_argument
    add("--autoencoder", required=True, help="name or directory of an autoencoder, see convert")
    add("--data", required=True, help="a TensorFlow Datasets name, folder, or tar (shards)")
    add("--data_dir", type=path, help="the folder, or where the data set is prepared")
    add(
        "--split",
        type=comma_separated(str),
        default=("train", "test"),
        help="splits, with commas (train,test)",
    )
    add_size(parser)
    add("--out", type=path, required=True, help="folder of the latents; each split gets a folder")
    add("--batch_size", type=int, default=64, help="images that are encoded at once (64)")
    add("--dtype", default="float32", help="float32, or bfloat16 to encode faster (float32)")
    add_processes(parser)
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        raise InputError(f"--batch_size: {args.batch_size} is not positive; give 1 or more")
    return args


if __name__ == "__main__":
    launch(main)
