"""Makes an HTML page of a run, or of several runs side by side.

    python -m ddaepp_jax.report --workdir=runs/digits
    python -m ddaepp_jax.report --compare runs/plain runs/conditioned --out=both.html

The page shows numbers, curves, samples, probes, scores and config. The program reads only the
files of the run directories. It needs neither JAX nor an accelerator nor the data, takes seconds,
and works while the run trains. The page is one file, and loads nothing over a network. A damaged
file is left out, and named on the page and on the terminal.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ddaepp_jax import evaluators
from ddaepp_jax.base.errors import InputError, shown
from ddaepp_jax.base.files import replace
from ddaepp_jax.base.paths import local_path
from ddaepp_jax.cli.arguments import Parser, output, path
from ddaepp_jax.cli.start import launch

DOCTYPE = b"<!DOCTYPE html>"


def report(workdirs: Sequence[str | os.PathLike]) -> str:
    """Returns the HTML page of a run, or the comparison of several.

    Raises:
      InputError: there is no path, or a path is not a run directory, is given twice, or its config
        is damaged.
    """
    from ddaepp_jax.reporting.page import page, read

    if isinstance(workdirs, str | os.PathLike) or not len(workdirs):
        raise InputError(f"workdirs: {shown(workdirs)}; give a list of run directories")
    runs = read([local_path(workdir, "workdirs") for workdir in workdirs])
    for run in runs:
        for line in run.left_out:
            print(f"left out: {line}", file=sys.stderr)
    return page(runs, evaluators.panels())


def main(argv: Sequence[str]) -> None:
    args = _parse(argv)
    if args.compare is not None and len(args.compare) < 2:
        raise InputError("--compare: give two run directories or more; --workdir=RUN is for one")
    default = args.workdir / "report.html" if args.workdir else Path("comparison.html")
    out = args.out or default
    with _writing(out):
        _refuse_other(out)
    text = report(args.compare or [args.workdir])
    with _writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        replace(out, text.encode(errors="replace"))
    print(f"look at {out}")


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Turns an error of a file into one that names ``--out``."""
    try:
        yield
    except OSError as error:
        raise InputError(f"--out: cannot write {out} ({error.strerror}); give another") from None


def _refuse_other(out: Path) -> None:
    """Raises an InputError if a file is there that is not a page, such as the run's config."""
    if out.is_file():
        with out.open("rb") as file:
            begin = file.read(len(DOCTYPE))
        if begin and begin != DOCTYPE:
            raise InputError(f"--out: {out} is not a page of this program; give another")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("ddaepp_jax.report", __doc__)
    runs = parser.add_mutually_exclusive_group(required=True)
    runs.add_argument("--workdir", type=path, help="run directory")
    runs.add_argument(
        "--compare", type=path, nargs="*", metavar="RUN", help="run directories to compare"
    )
    parser.add_argument(
        "--out",
        type=output,
        help="file of the page (default: WORKDIR/report.html, or comparison.html in the current "
        "directory with --compare)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    launch(main)
