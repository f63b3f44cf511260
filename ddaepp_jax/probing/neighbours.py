"""Classification of features by their nearest neighbours."""

import numpy as np

from ddaepp_jax.probing.scaling import scaled, standard_scale


def knn_accuracy(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    query: np.ndarray,
    query_labels: np.ndarray,
    k: int,
    temperature: float = 0.07,
) -> float:
    """Computes the accuracy of the k nearest neighbours by cosine.

    Each neighbour votes with ``exp(cosine / temperature)``, as in DINO (arXiv 2104.14294). The
    bank's mean and deviation standardise the features first; otherwise a large mean makes all
    cosines alike.

    Args:
      bank: (N, C) features among which neighbours are sought.
      bank_labels: (N,) int.
      query: (M, C) features to classify.
      query_labels: (M,) int.
      k: number of neighbours; a smaller bank is used whole.
      temperature: temperature of the votes.

    Returns:
      The share of queries that are classified correctly, in 0..1.
    """
    from sklearn.neighbors import KNeighborsClassifier

    scales = standard_scale({"": bank})

    def unit(features: np.ndarray) -> np.ndarray:
        z = scaled({"": features}, scales)[""]
        return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)

    # On unit vectors |a - b|^2 = 2 - 2 cos; the factor exp(1 / temperature), which all votes share,
    # is left out.
    vote = lambda distance: np.exp(-0.5 * np.square(distance) / temperature)
    classifier = KNeighborsClassifier(min(k, len(bank)), weights=vote, algorithm="brute")
    return float(classifier.fit(unit(bank), bank_labels).score(unit(query), query_labels))
