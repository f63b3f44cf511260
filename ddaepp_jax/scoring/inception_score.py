"""Inception score: how sure a classifier is of each image, and how different its answers are."""

import numpy as np
from scipy.special import log_softmax, logsumexp


def inception_score(logits: np.ndarray, splits: int = 10) -> tuple[float, float]:
    """Mean and standard deviation over splits of ``exp(mean KL(p(y|x) || p(y)))``, where p(y) is
    the split's mean.

    Salimans et al. 2016 (arXiv 1606.03498), section 4. Splits are of consecutive images, from ``i N
    // splits`` on, as torch-fidelity has them (which shuffles the images first).

    Args:
      logits: (N, K), of K classes.

    Raises:
      ValueError: not (N, K), not finite, or less images than splits.
    """
    if logits.ndim != 2 or not logits.shape[1]:
        raise ValueError(f"logits of shape {logits.shape}; it takes (N, K)")
    n = len(logits)
    if not 1 <= splits <= n:
        raise ValueError(
            f"{splits} splits of {n} images; it takes at least 1, and an image in each"
        )
    if not np.isfinite(logits).all():
        raise ValueError("logits that aren't finite")
    log_p = log_softmax(np.asarray(logits, np.float64), axis=1)
    scores = [_score(log_p[i * n // splits : (i + 1) * n // splits]) for i in range(splits)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(log_p: np.ndarray) -> np.float64:
    """exp(mean KL) of (B, K) log-probabilities; in logarithms throughout, as a probability may
    underflow.
    """
    log_mean = logsumexp(log_p, axis=0) - np.log(len(log_p))
    return np.exp((np.exp(log_p) * (log_p - log_mean)).sum(axis=1).mean())
