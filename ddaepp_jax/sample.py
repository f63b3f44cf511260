"""Samples images from a run: a grid to look at, and an .npz to score.

    python -m ddaepp_jax.sample --workdir=runs/digits
    python -m ddaepp_jax.sample --workdir=runs/cond --n=80 --labels=3,5 --guidance=2 \\
        --sampler=ddpm --steps=1000
    python -m ddaepp_jax.sample --workdir=runs/edm --sampler=heun --steps=256 --options=s_churn=30
    python -m ddaepp_jax.sample --workdir=runs/flow --guidance=6.7 --guidance_interval=0.1,1 \\
        --guidance_channels=3
    python -m ddaepp_jax.sample --workdir=runs/large --guide=runs/small --autoguidance=2

Image i depends on (seed, i) alone: neither the batch size nor the devices change it.
"""

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.cli.arguments import (
    Parser,
    add_run,
    add_sampling,
    comma_separated,
    open_run,
    sampling,
)
from ddaepp_jax.cli.start import launch, start_backend

if TYPE_CHECKING:
    from ddaepp_jax.run import Run

GRID_AT_MOST = 400  # Images in the picture; the .npz file holds all.


def main(argv: Sequence[str]) -> None:
    """Samples by the arguments of a command line."""
    args = _parse(argv)
    start_backend()
    run = open_run(args)
    labels = None
    if args.labels is not None:
        # With 3,5 the first half of the images is of class 3, the second half of class 5.
        labels = np.repeat(args.labels, -(-max(args.n, 0) // len(args.labels)))[: args.n]
    average = "" if run.sigma_rel is None else f"_{run.average}"
    name = f"step{run.step}_seed{args.seed}{average}"
    out = Path(args.out or Path(args.workdir) / "samples" / name)
    with _writing(out):  # Before the work, so that nobody waits for an error.
        out.parent.mkdir(parents=True, exist_ok=True)
    images = run.sample(
        n=args.n, seed=args.seed, labels=labels, first=args.first, progress=True, **sampling(args)
    )
    with _writing(out):
        _write(run, images, labels, args.columns, out)


def _write(
    run: "Run", images: np.ndarray, labels: np.ndarray | None, columns: int, out: Path
) -> None:
    """Writes the picture and the .npz file, and says where they are."""
    from ddaepp_jax import build
    from ddaepp_jax.reporting.pictures import grid

    extra = {} if labels is None else {"labels": labels}
    if run.config.data.name == build.LATENTS:
        np.savez(f"{out}.npz", latents=images, **extra)
        print(
            f"{len(images)} latents are in {out}.npz, for their autoencoder to decode; "
            "there is no picture of them"
        )
        return
    if not columns and run.config.model.class_conditional and labels is None:
        columns = run.num_classes
    grid(images[:GRID_AT_MOST], columns).save(f"{out}.png")
    np.savez(f"{out}.npz", images=images, **extra)
    print(f"look at {out}.png; all {len(images)} images are in {out}.npz")


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
        help="path without suffix "
        "(default: WORKDIR/samples/step<STEP>_seed<SEED>[_sigma_rel<WIDTH>])",
    )
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
