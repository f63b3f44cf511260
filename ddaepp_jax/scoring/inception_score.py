"""The Inception Score: how sure a classifier is of each image, and how its answers differ."""

import numpy as np
from scipy.special import log_softmax, logsumexp


def inception_score(logits: np.ndarray, splits: int = 10) -> tuple[float, float]:
    """Computes ``exp(mean KL(p(y|x) || p(y)))`` of each split, where p(y) is the split's mean.

    Salimans et al. 2016 (arXiv 1606.03498), section 4. A split is consecutive images, from ``i N //
    splits`` on, as in torch-fidelity (which shuffles the images first).

    Args:
      logits: (N, K), of K classes.
      splits: number of splits.

    Returns:
      The mean and the standard deviation over the splits.

    Raises:
      ValueError: the shape is not (N, K), a logit is not finite, or there are more splits than
        images.
    """
    if logits.ndim != 2 or not logits.shape[1]:
        raise ValueError(f"logits of shape {logits.shape}; give (N, K)")
    n = len(logits)
    if not 1 <= splits <= n:
        raise ValueError(f"{splits} splits of {n} images; give at least 1, with an image in each")
    if not np.isfinite(logits).all():
        raise ValueError("logits are not finite; give finite logits")
    log_p = log_softmax(np.asarray(logits, np.float64), axis=1)
    scores = [_score(log_p[i * n // splits : (i + 1) * n // splits]) for i in range(splits)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(log_p: np.ndarray) -> np.float64:
    """Computes exp(mean KL) of (B, K) log-probabilities, in logarithms to avoid underflow."""
    log_mean = logsumexp(log_p, axis=0) - np.log(len(log_p))
    return np.exp((np.exp(log_p) * (log_p - log_mean)).sum(axis=1).mean())
