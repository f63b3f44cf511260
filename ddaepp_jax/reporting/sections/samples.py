"""The section of sample grids."""

from collections.abc import Sequence

from ddaepp_jax.reporting import html
from ddaepp_jax.reporting.record import Record

STRIP = 40  # At most this many earlier grids are shown, evenly chosen: a long run has hundreds.


def of_run(run: Record) -> str:
    """Returns the newest grid and those that ``sample`` drew, above a strip of earlier grids."""
    if not (run.grids or run.drawn):
        return _no_samples(run)
    steps = sorted(run.grids, reverse=True)
    large = [html.picture(f"step {step:,}", run.grids[step]) for step in steps[:1]]
    large += [html.picture(f"{name}, by sample", png) for name, png in run.drawn.items()]
    earlier = steps[1:]
    every = max(1, -(-len(earlier) // STRIP))
    small = [html.picture(f"step {step:,}", run.grids[step]) for step in earlier[::every]]
    content = html.grid(large, "two")
    if small:
        content += f'<div class="strip">{"".join(small)}</div>'
    if every > 1:
        content += html.quiet(f"One in {every} of the earlier grids.")
    return content


def of_runs(runs: Sequence[Record]) -> str:
    """Returns the newest grid of each run."""
    newest = [(run, max(run.grids)) for run in runs if run.grids]
    pictures = [html.picture(f"{run.name}, step {step:,}", run.grids[step]) for run, step in newest]
    missing = [_no_samples(run) for run in runs if not (run.grids or run.drawn)]
    return html.grid(pictures) + "".join(missing)


def _no_samples(run: Record) -> str:
    command = html.tag("code", run.command("sample"))
    return html.quiet(f"No samples yet; they are drawn in training, or by {command}")
