"""All scores of a set of features against a reference, and their names."""

from collections.abc import Mapping

import numpy as np

from ddaepp_jax.scoring import frechet, references
from ddaepp_jax.scoring.inception_score import inception_score
from ddaepp_jax.scoring.kid import kid
from ddaepp_jax.scoring.precision_recall import precision_recall
from ddaepp_jax.scoring.references import Reference

NEIGHBOURS = 3  # k of precision and recall
# Scores by Inception's features have the literature's names. Scores by other features are not
# comparable with them, so their names begin with the extractor's kind.
NAMES = {"fd": "fid", "sfd": "sfid", "score": "is"}


def scores(features: Mapping[str, np.ndarray], reference: Reference) -> dict[str, float]:
    """Computes every score that the features and the reference allow.

    Args:
      features: features by layer, (N, D) float32, of at least ``scoring.FEWEST`` images.
      reference: the reference with which the images are compared.

    Returns:
      The Frechet distances "fd" and "sfd" (of spatial features), "score" (the Inception Score,
      which needs no reference), "kid", and "precision" and "recall" in 0..1. "kid_std" is the
      deviation over subsets, "score_std" over splits.
    """
    pool = features["pool"]
    values = {}
    for name, layer in (("fd", "pool"), ("sfd", "spatial")):
        if layer in features and layer in reference.gaussians:
            gaussian = frechet.gaussian(features[layer])
            values[name] = frechet.distance(gaussian, reference.gaussians[layer])
    values["score"], values["score_std"] = inception_score(features["logits"])
    if reference.features is not None:
        values["kid"], values["kid_std"] = kid(pool, reference.features)
        values["precision"], values["recall"] = precision_recall(
            reference.features, references.fixed_subset(pool), NEIGHBOURS
        )
    return values


def named(
    values: Mapping[str, float], n: int, kind: str, protocol: str, reference: str, suffix: str = ""
) -> dict[str, float]:
    """Returns scores by their full names, as in ``fid50k/ema0.9999/ddim100/train``.

    Deviations are left out.

    Args:
      values: what ``scores`` returns.
      n: number of images.
      kind: the extractor's kind.
      protocol: text that says how the images were made, as in ``ema0.9999/ddim100``.
      reference: the reference's name; the Inception Score has no reference.
      suffix: the extractor's suffix.
    """
    metrics = {}
    for name in score_names(values):
        used = min(n, references.FEATURES_AT_MOST) if name in ("precision", "recall") else n
        metric = NAMES.get(name, name) if kind == "inception" else f"{kind}-{name}"
        parts = [f"{metric}{format_count(used)}{suffix}", protocol]
        if name != "score":
            parts.append(reference)
        metrics["/".join(parts)] = values[name]
    return metrics


def score_names(values: Mapping[str, float]) -> list[str]:
    """Returns the names of the scores in a row, without those of deviations and the seed."""
    return [name for name in values if not name.endswith("_std") and name != "seed"]


def format_count(n: int) -> str:
    """Writes 50000 as 50k and 1234 as 1234."""
    return f"{n // 1000}k" if n and n % 1000 == 0 else str(n)
