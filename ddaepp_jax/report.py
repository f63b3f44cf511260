"""Makes an HTML page of a run, or of several runs side by side.

    python -m ddaepp_jax.report --workdir=runs/digits
    python -m ddaepp_jax.report --compare runs/plain runs/conditioned --out=both.html

The page shows numbers, curves, samples, probes, scores and config. The program reads only the
files of the run directories. It needs neither JAX nor an accelerator nor the data, takes seconds,
and works while the run trains. The page is one file, and loads nothing over a network.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ddaepp_jax import evaluators
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.cli.arguments import Parser, path
from ddaepp_jax.cli.start import launch


def report(workdirs: Sequence[Path]) -> str:
    """Returns the HTML page of a run, or the comparison of several.

    Raises:
      InputError: a path is not a run directory, is given twice, or holds a damaged file.
    """
    from ddaepp_jax.reporting.page import page

    return page(workdirs, evaluators.panels())


def main(argv: Sequence[str]) -> None:
    args = _parse(argv)
    if args.compare is not None and len(args.compare) < 2:
        raise InputError("--compare: give two run directories or more; --workdir=RUN is for one")
    default = args.workdir / "report.html" if args.workdir else Path("comparison.html")
    out = args.out or default
    text = report(args.compare or [args.workdir])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"--out: cannot write {out} ({error.strerror}); give another") from None
    print(f"look at {out}")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("ddaepp_jax.report", __doc__)
    runs = parser.add_mutually_exclusive_group(required=True)
    runs.add_argument("--workdir", type=path, help="run directory")
    runs.add_argument(
        "--compare", type=path, nargs="*", metavar="RUN", help="run directories to compare"
    )
    parser.add_argument(
        "--out",
        type=path,
        help="file of the page (default: WORKDIR/report.html, or comparison.html in the current "
        "directory with --compare)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    launch(main)
