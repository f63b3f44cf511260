"""Which candidate has the lowest training loss, and whether its lead exceeds the seeds' spread."""

from collections.abc import Mapping
from typing import Any

import numpy as np

TIE = "tie"
LAST = 0.2  # fraction of a run, at its end, whose mean loss is the run's score


def score(row: Mapping[str, Any], steps: int) -> float:
    """Returns the mean loss over the last fifth of a run; infinity if a loss was not finite.

    Args:
      row: a row of curves.jsonl: "stops", the steps at which parts of the run ended, "loss", the
        mean loss of each part, and "bad_step".
      steps: number of steps of the whole run.
    """
    if row["bad_step"] is not None:
        return float("inf")
    stops = np.array(row["stops"])
    lengths = np.diff(stops, prepend=0)
    last = stops > steps - max(LAST * steps, 1)
    return float(np.average(np.array(row["loss"])[last], weights=lengths[last]))


def decide(scores: Mapping[str, Mapping[int, float]]) -> dict[str, Any]:
    """Names the block of the lowest loss if its lead over every other exceeds the seeds' spread.

    Runs of one seed have the same data, noise and initial values, so blocks are compared seed by
    seed. The gap of a block is the mean over seeds of its difference to the best block, and the
    spread their standard deviation (ddof 1). A block whose gap does not exceed its spread ties with
    the best. One seed has no spread, so it always gives a tie. A loss that is not finite loses.

    Args:
      scores: block -> seed -> loss, with the same seeds, at least one, for every block.

    Returns:
      "winner", a block or "tie"; "best", the block of the lowest mean; "tied", the blocks that tie
      with it; "runner_up", the block of the second lowest mean, with its "gap" and "spread";
      "candidates", which has for each block its "loss" by seed, "mean", "gap" and "spread". None
      stands for a number that is not finite and for the spread of one seed.
    """
    seeds = sorted(next(iter(scores.values())))
    losses = {name: np.array([by_seed[seed] for seed in seeds]) for name, by_seed in scores.items()}
    best, runner_up = sorted(losses, key=lambda name: losses[name].mean())[:2]
    candidates = {name: _compared(seeds, values, losses[best]) for name, values in losses.items()}
    tied = [
        name
        for name, row in candidates.items()
        if name != best
        and row["gap"] is not None
        and (row["spread"] is None or row["gap"] <= row["spread"])
    ]
    decided = len(seeds) > 1 and not tied and candidates[best]["mean"] is not None
    return {
        "winner": best if decided else TIE,
        "best": best,
        "tied": tied,
        "runner_up": runner_up,
        "gap": candidates[runner_up]["gap"],
        "spread": candidates[runner_up]["spread"],
        "candidates": candidates,
    }


def _compared(seeds: list[int], losses: np.ndarray, best: np.ndarray) -> dict[str, Any]:
    """Returns a candidate's losses by seed, their mean, and the gap to the best with its spread."""
    by_seed = {
        str(seed): float(loss) if np.isfinite(loss) else None
        for seed, loss in zip(seeds, losses, strict=True)
    }
    if not np.isfinite(losses).all():
        return {"loss": by_seed, "mean": None, "gap": None, "spread": None}
    gaps = losses - best
    return {
        "loss": by_seed,
        "mean": float(losses.mean()),
        "gap": float(gaps.mean()),
        "spread": float(gaps.std(ddof=1)) if len(gaps) > 1 else None,
    }


def advice(decision: Mapping[str, Any]) -> str:
    """Says what to do after a search, for a terminal.

    Args:
      decision: what ``decide`` returns, with "seeds" and "line", the line of a config that selects
        the best block.
    """
    best = decision["best"]
    if decision["winner"] != TIE:
        return (
            f"{best} has the lowest training loss; paste into the config:\n\n    {decision['line']}"
        )
    if decision["candidates"][best]["mean"] is None:
        return (
            "every candidate met a loss that is not finite: lower optimizer.learning_rate, in "
            "another --workdir"
        )
    if len(decision["seeds"]) == 1:
        return (
            f"tie: one seed has no spread to compare with (the lowest is {best}'s); give more "
            "--seeds"
        )
    names = ", ".join([best, *decision["tied"]])
    return (
        f"tie: {names} differ by no more than seeds do; keep the config's own, or give more "
        "--steps in another --workdir (more --seeds make this result surer, a winner no likelier)"
    )
