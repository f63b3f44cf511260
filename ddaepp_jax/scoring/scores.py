"""All scores of a set of images against a reference, and the names that they carry."""

from collections.abc import Mapping

import numpy as np

from ddaepp_jax.scoring import frechet, references
from ddaepp_jax.scoring.inception_score import inception_score
from ddaepp_jax.scoring.kid import kid
from ddaepp_jax.scoring.precision_recall import precision_recall
from ddaepp_jax.scoring.references import Reference

NEIGHBOURS = 3  # of precision and recall
# By Inception's features they have the literature's names; by others' they are not those scores.
NAMES = {"fd": "fid", "sfd": "sfid", "score": "is"}


def scores(found: Mapping[str, np.ndarray], reference: Reference) -> dict[str, float]:
    """Frechet distances "fd" and "sfd" (spatial), "kid", "precision", "recall" in 0..1, and
    "score", of no reference.

    "kid_std" is over subsets, "score_std" over splits. What the reference has no features for is
    left out.

    Args:
      found: an extractor's features of the images by layer, (N, D) float32, of
        ``image_sets.FEWEST`` at least.
    """
    made, pool = {}, found["pool"]
    for name, layer in (("fd", "pool"), ("sfd", "spatial")):
        if layer in found and layer in reference.gaussians:
            made[name] = frechet.distance(
                frechet.gaussian(found[layer]), reference.gaussians[layer]
            )
    made["score"], made["score_std"] = inception_score(found["logits"])
    if reference.features is not None:
        made["kid"], made["kid_std"] = kid(pool, reference.features)
        made["precision"], made["recall"] = precision_recall(
            reference.features, references.drawn(pool), NEIGHBOURS
        )
    return made


def named(
    values: Mapping[str, float], n: int, kind: str, protocol: str, reference: str, suffix: str = ""
) -> dict[str, float]:
    """Scores by their whole names, as ``fid50k/ema0.9999/ddim100/train``; spreads are left out.

    Args:
      n: number of images.
      kind, suffix: the extractor's.
      protocol: how the images were made, ``ema0.9999/ddim100``.
      reference: its name; the Inception Score has none.
    """
    whole = {}
    for name in scored(values):
        used = min(n, references.FEATURES_AT_MOST) if name in ("precision", "recall") else n
        metric = NAMES.get(name, name) if kind == "inception" else f"{kind}-{name}"
        parts = [
            f"{metric}{short(used)}{suffix}",
            protocol,
            *([] if name == "score" else [reference]),
        ]
        whole["/".join(parts)] = values[name]
    return whole


def scored(values: Mapping[str, float]) -> list[str]:
    """The names of scores, without those of their spreads."""
    return [name for name in values if not name.endswith("_std") and name != "seed"]


def short(n: int) -> str:
    """50000 is 50k, 1234 is 1234."""
    return f"{n // 1000}k" if n and n % 1000 == 0 else str(n)
