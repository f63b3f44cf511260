"""Which candidate has the lowest training loss, and whether its lead is more than chance."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import stdtrit

TIE = "tie"
CONFIDENCE = 0.95  # of the interval of a gap, by Student's t over the seeds
LEAST = 1e-3  # smallest gap that counts, as a fraction of the lowest loss
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
    """Names the block of the lowest loss if its lead over every other is more than chance.

    Runs of one seed have the same data, noise and initial values, so blocks are compared seed by
    seed. The gap of a block is the mean over seeds of its difference to the best block, and the
    spread their standard deviation (ddof 1). The gap has to exceed the margin: half of its 95 %
    confidence interval, ``t spread / sqrt(seeds)``, and at least a thousandth of the best loss. A
    block whose gap doesn't exceed its margin ties with the best. One seed has no spread, so it
    always gives a tie. A loss that is not finite loses.

    Args:
      scores: block -> seed -> loss, with the same seeds, at least one, for every block.

    Returns:
      "winner", a block or "tie"; "best", the block of the lowest mean; "tied", the blocks that tie
      with it; "runner_up", the block of the second lowest mean, with its "gap" and "spread";
      "candidates", which has for each block its "loss" by seed, "mean", "gap", "spread" and
      "margin". None stands for a number that is not finite, and for the spread and the margin of
      one seed.
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
        and (row["margin"] is None or row["gap"] <= row["margin"])
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
    """Returns a candidate's losses by seed, their mean, and the gap to the best.

    The gap comes with its spread and the margin that it has to exceed.
    """
    by_seed = {
        str(seed): float(loss) if np.isfinite(loss) else None
        for seed, loss in zip(seeds, losses, strict=True)
    }
    if not np.isfinite(losses).all():
        return {"loss": by_seed, "mean": None, "gap": None, "spread": None, "margin": None}
    gaps = losses - best
    count = len(gaps)
    spread = float(gaps.std(ddof=1)) if count > 1 else None
    margin = None
    if spread is not None:
        chance = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * spread / np.sqrt(count)
        margin = float(max(chance, LEAST * abs(best.mean())))
    return {
        "loss": by_seed,
        "mean": float(losses.mean()),
        "gap": float(gaps.mean()),
        "spread": spread,
        "margin": margin,
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
        f"tie: no difference seen between {names}; keep the config's own. More --seeds tell, and "
        "so do more --steps in another --workdir"
    )
