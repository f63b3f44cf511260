"""Samples images from a run: a grid to look at, and an .npz to score.

    python -m ddaepp_jax.sample --workdir=runs/digits
    python -m ddaepp_jax.sample --workdir=runs/cond --n=80 --labels=3,5 --guidance=2 \\
        --sampler=ddpm --steps=1000
    python -m ddaepp_jax.sample --workdir=runs/edm --sampler=heun --steps=256 --options=s_churn=30
    python -m ddaepp_jax.sample --workdir=runs/flow --guidance=6.7 --guidance_interval=0.1,1 \\
        --guidance_channels=3
    python -m ddaepp_jax.sample --workdir=runs/large --guide=runs/small --autoguidance=2

Image i depends on (seed, i) alone: neither the batch size nor the devices change it. The settings
are beside the images, in OUT.json; images of other settings are not overwritten.
"""

import argparse
import contextlib
import errno
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.files import check_writable, replacing
from ddaepp_jax.base.results import Results
from ddaepp_jax.cli.arguments import (
    Parser,
    add_processes,
    add_run,
    add_sampling,
    boolean,
    comma_separated,
    open_run,
    output,
    sampling,
    start,
)
from ddaepp_jax.cli.start import launch
from ddaepp_jax.sampling.settings import modern_identity

if TYPE_CHECKING:
    from ddaepp_jax.run import Run

GRID_AT_MOST = 400  # Images in the picture; the .npz file holds all.


def main(argv: Sequence[str]) -> None:
    """Samples by the arguments of a command line."""
    args = _parse(argv)
    from ddaepp_jax.base.processes import from_first, in_first

    start(args)
    run = open_run(args)
    labels = None
    if args.labels is not None:
        # With 3,5 the first half of the images is of class 3, the second half of class 5.
        labels = np.repeat(args.labels, -(-max(args.n, 0) // len(args.labels)))[: args.n]
    chosen = sampling(args)
    identity = {
        "run": str(run.workdir.resolve()) if args.out else "",
        "step": run.step,
        "average": run.average,
        **run.sampling(**chosen).identity,
        "n": args.n,
        "seed": args.seed,
        "first": args.first,
        "labels": args.labels,
    }
    out = args.out or run.workdir / "samples" / _name(args, run, run.sampling(**chosen).tag)
    settings = Results(Path(f"{out}.json"), identity, "samples", modern=modern_identity)
    shape = run.sample_shape if args.decode else run.image_shape
    with _writing(out):  # Before the work, so that nobody waits for an error.
        in_first(lambda: _check_out(out, settings, args.n * math.prod(shape)))
    images = run.sample(
        n=args.n,
        seed=args.seed,
        labels=labels,
        first=args.first,
        progress=True,
        decode=args.decode,
        **chosen,
    )
    with _writing(out):
        in_first(lambda: settings.write({}))
        line = from_first(lambda: _write(run, images, labels, args.columns, out))
    print(line)


def _name(args: argparse.Namespace, run: "Run", tag: str) -> str:
    """Returns the name of the files, which tells how the images were made."""
    first = f"-first{args.first}" if args.first else ""
    labels = "" if args.labels is None else f"-labels{'_'.join(map(str, args.labels))}"
    return f"step{run.step}-{run.average}-{tag}-n{args.n}-seed{args.seed}{first}{labels}"


def _check_out(out: Path, settings: Results, nbytes: int) -> None:
    """Refuses a path at which the images to come would replace something else.

    Args:
      out: path of the images, without suffix.
      settings: the settings of the images, in OUT.json.
      nbytes: size of the images in bytes.

    Raises:
      InputError: there are images with other settings, or files of something else.
      OSError: the files cannot be written.
    """
    check_writable(out.parent, "--out", "give another")
    files = [Path(f"{out}{suffix}") for suffix in (".npz", ".png")]
    if out.is_dir() or any(file.is_dir() for file in files):
        raise InputError(f"--out: {out} is a folder; give a path in it, without suffix")
    if settings.read() is None and any(file.exists() for file in files):
        raise InputError(f"--out: {out} has files without settings ({out}.json); give another")
    if shutil.disk_usage(out.parent).free < nbytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _write(
    run: "Run", images: np.ndarray, labels: np.ndarray | None, columns: int, out: Path
) -> str:
    """Writes the picture and the .npz file, and returns a line that says where they are."""
    from ddaepp_jax.reporting.pictures import grid

    latents = images.dtype != np.uint8
    extra = {} if labels is None else {"labels": labels}
    with replacing(Path(f"{out}.npz")) as file:
        np.savez(file, **{"latents" if latents else "images": images}, **extra)
    if latents:
        return f"{len(images)} latents are in {out}.npz; --decode=True would decode them"
    if not columns and run.config.model.class_conditional and labels is None:
        columns = run.num_classes
    grid(images[:GRID_AT_MOST], columns).save(f"{out}.png")
    return f"look at {out}.png; all {len(images)} images are in {out}.npz"


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("ddaepp_jax.sample", __doc__)
    add = parser.add_argument
    add_run(parser)
    add("--n", type=int, default=64, help="number of images (64)")
    add("--seed", type=int, default=0, help="seed of the start noise (0)")
    add(
        "--first",
        type=int,
        default=0,
        help="number of the first image, so that parts of one set can be sampled apart (0)",
    )
    add(
        "--labels",
        type=comma_separated(int),
        help="a class, or several with commas between them, for class-conditional runs "
        "(default: all classes in turn)",
    )
    add_sampling(parser)
    add(
        "--columns",
        type=int,
        default=0,
        help="columns of the grid (default: about square, or a column a class)",
    )
    add(
        "--out",
        type=output,
        help="path without suffix "
        "(default: WORKDIR/samples/step<STEP>-<AVERAGE>-<SAMPLER>-n<N>-seed<SEED>)",
    )
    add(
        "--decode",
        type=boolean,
        default=True,
        help="whether the autoencoder of a run on latents decodes them (True)",
    )
    add_processes(parser)
    args = parser.parse_args(argv)
    if args.columns < 0:
        raise InputError(f"--columns: {args.columns} is negative; 0 chooses the number")
    return args


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Turns an error in writing into an InputError that names ``--out``."""
    try:
        yield
    except OSError as error:
        raise InputError(f"--out: cannot write {out} ({error.strerror}); give another") from None


if __name__ == "__main__":
    launch(main)
