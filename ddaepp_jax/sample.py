"""Sample images from a run: a grid to look at, and an .npz to score.

    python -m ddaepp_jax.sample --workdir=runs/digits
    python -m ddaepp_jax.sample --workdir=runs/cond --n=80 --labels=3,5 --guidance=2 --sampler=ddpm --steps=1000
    python -m ddaepp_jax.sample --workdir=runs/edm --sampler=heun --steps=256 --options=s_churn=30
    python -m ddaepp_jax.sample --workdir=runs/flow --guidance=6.7 --guidance_interval=0.1,1 --guidance_channels=3
    python -m ddaepp_jax.sample --workdir=runs/large --guide=runs/small --autoguidance=2

Image i is a function of (seed, i): neither the batch size nor the devices change it.
"""

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ddaepp_jax import build
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.cli.arguments import Parser, add_run, add_sampling, open_run, sampling, several
from ddaepp_jax.cli.start import launch, start_backend
from ddaepp_jax.reporting.pictures import grid

GRID_AT_MOST = 400  # images in the picture; the npz holds all


def main(argv: Sequence[str]) -> None:
    args = _parse(argv)
    if args.columns < 0:
        raise InputError(f"--columns: {args.columns} is negative; 0 chooses")
    start_backend()
    run = open_run(args)
    labels = None
    if args.labels is not None:  # 3,5: half of the images are of class 3, the other half of 5
        labels = np.repeat(args.labels, -(-max(args.n, 0) // len(args.labels)))[: args.n]
    average = "" if run.sigma_rel is None else f"_{run.average}"
    out = Path(
        args.out or Path(args.workdir) / "samples" / f"step{run.step}_seed{args.seed}{average}"
    )
    with _writing(out):  # before the work, so that nobody waits for an error
        out.parent.mkdir(parents=True, exist_ok=True)
    images = run.sample(
        n=args.n, seed=args.seed, labels=labels, first=args.first, progress=True, **sampling(args)
    )
    if run.config.data.name == build.LATENTS:
        with _writing(out):
            np.savez(f"{out}.npz", latents=images, **({} if labels is None else {"labels": labels}))
        print(
            f"{len(images)} latents are in {out}.npz, for their autoencoder to decode; there is no picture of them"
        )
        return
    with _writing(out):
        columns = args.columns or (
            run.num_classes if run.config.model.class_conditional and labels is None else 0
        )
        grid(images[:GRID_AT_MOST], columns).save(f"{out}.png")
        arrays = {"images": images} if labels is None else {"images": images, "labels": labels}
        np.savez(f"{out}.npz", **arrays)
    print(f"look at {out}.png; all {len(images)} images are in {out}.npz")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("ddaepp_jax.sample", __doc__)
    add = parser.add_argument
    add_run(parser)
    add("--n", type=int, default=64, help="how many images (64)")
    add("--seed", type=int, default=0, help="of the images' start noise (0)")
    add(
        "--first",
        type=int,
        default=0,
        help="number of the first image: parts of one set can be made apart (0)",
    )
    add(
        "--labels",
        type=several(int),
        help="a class, or several with commas; class-conditional runs (default: all in turn)",
    )
    add_sampling(parser)
    add(
        "--columns",
        type=int,
        default=0,
        help="of the grid (default: about square; the classes where there are some)",
    )
    add(
        "--out",
        help="path without suffix (default: WORKDIR/samples/step<STEP>_seed<SEED>[_sigma_rel<WIDTH>])",
    )
    return parser.parse_args(argv)


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"--out: cannot write {out} ({error.strerror}); give another") from None


if __name__ == "__main__":
    launch(main)
