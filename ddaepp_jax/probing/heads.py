"""Linear heads on frozen features, many at once: every layer of one width and every learning rate
under ``vmap``.

A head is multinomial logistic regression, ``softmax(W z + b)`` on a feature ``z``; it starts at
zero and is trained by Adam with a cosine to zero. Heads don't see each other: trained together or
one by one, they are the same.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import Array

from ddaepp_jax.data.order import batch_indices
from ddaepp_jax.probing.protocols import Protocol


@struct.dataclass
class Heads:
    """Heads by layer and learning rate, with Adam's moments; layers of one width are stacked.

    Attributes:
      params: {width: {"kernel": (R, L, width, classes), "bias": (R, L, classes)}} for R learning
        rates, L layers.
      moments: optax's, of the same leading axes.
    """

    params: dict[str, dict[str, Array]]
    moments: dict[str, optax.OptState]


CHUNK = 4096  # images whose classes are named at once
ADAM = optax.scale_by_adam()
Scales = Mapping[
    str, tuple[Array, Array]
]  # {layer: mean (C,) and standard deviation (C,)}; empty: as they are


def by_width(shapes: Mapping[str, int]) -> dict[str, list[str]]:
    """Layers of {layer: width} by their width, in the order of their names, which is that of a
    traced dict.
    """
    return {
        str(width): sorted(n for n, w in shapes.items() if w == width)
        for width in sorted(set(shapes.values()))
    }


def _stack(features: Mapping[str, Array]) -> dict[str, Array]:
    """{layer: (B, C)} -> {width: (L, B, C)}."""
    groups = by_width({name: feature.shape[-1] for name, feature in features.items()})
    return {width: jnp.stack([features[name] for name in names]) for width, names in groups.items()}


def init(widths: Mapping[str, int], num_classes: int, num_rates: int) -> Heads:
    """Heads at zero for {layer: width}."""
    params = {
        width: {
            "kernel": jnp.zeros((num_rates, len(names), int(width), num_classes)),
            "bias": jnp.zeros((num_rates, len(names), num_classes)),
        }
        for width, names in by_width(widths).items()
    }
    return Heads(
        params, {width: jax.vmap(jax.vmap(ADAM.init))(stacked) for width, stacked in params.items()}
    )


def _logits(head: Mapping[str, Array], feature: Array) -> Array:
    return feature @ head["kernel"] + head["bias"][None]


def step(
    heads: Heads, features: Mapping[str, Array], labels: Array, rates: Array, done: Array, l2: float
) -> Heads:
    """One Adam step of every head on its own loss.

    Args:
      features: {layer: (B, C)}. labels: (B,) int. rates: (R,) peak learning rates.
      done: () the part of the training that is over, 0..1, for the cosine.
    """
    scale = 0.5 * (1 + jnp.cos(jnp.pi * done))

    def one(head, moments, feature, rate):
        def loss(head):
            nll = optax.softmax_cross_entropy_with_integer_labels(_logits(head, feature), labels)
            return nll.mean() + 0.5 * l2 * jnp.sum(jnp.square(head["kernel"]))

        updates, moments = ADAM.update(jax.grad(loss)(head), moments)
        return jax.tree.map(lambda p, u: p - rate * scale * u, head, updates), moments

    layers = jax.vmap(one, in_axes=(0, 0, 0, None))
    every = jax.vmap(layers, in_axes=(0, 0, None, 0))
    moved = {
        width: every(heads.params[width], heads.moments[width], feature, rates)
        for width, feature in _stack(features).items()
    }
    return Heads(
        {w: params for w, (params, _) in moved.items()},
        {w: moments for w, (_, moments) in moved.items()},
    )


def standard_scale(features: Mapping[str, np.ndarray]) -> Scales:
    """{layer: (mean, standard deviation)} over (N, C) features, by channel in float64; a dead
    channel stays.
    """
    scales = {}
    for name, feature in features.items():
        pieces = [
            feature[start : start + CHUNK] for start in range(0, len(feature), CHUNK)
        ]  # views, maybe of a file
        mean = sum(piece.sum(axis=0, dtype=np.float64) for piece in pieces) / len(feature)
        std = np.sqrt(sum(np.square(piece - mean).sum(axis=0) for piece in pieces) / len(feature))
        scales[name] = (
            mean.astype(np.float32),
            np.where(std > 1e-6 * np.abs(mean) + 1e-12, std, 1).astype(np.float32),
        )
    return scales


def scaled(features: Mapping[str, Array], scales: Scales) -> dict[str, Array]:
    """Features with mean and standard deviation taken out, where ``scales`` is not empty."""
    if not scales:
        return dict(features)
    return {
        name: (f - scales[name][0][None]) / scales[name][1][None] for name, f in features.items()
    }


@partial(jax.jit, static_argnames=("protocol", "num_classes", "seed"))
def fit(
    features: Mapping[str, Array],
    labels: Array,
    scales: Scales,
    protocol: Protocol,
    *,
    num_classes: int,
    seed: int = 0,
) -> Heads:
    """Heads trained on stored features {layer: (N, C)} with labels (N,), in one dispatch, on one
    device.

    An epoch is N / batch_size steps, rounded up over the whole; the order is that of
    ``data.order``.
    """
    n, rates = len(labels), jnp.asarray(protocol.learning_rates, jnp.float32)
    steps = total_steps(n, protocol.epochs, protocol.batch_size)
    widths = {name: feature.shape[-1] for name, feature in features.items()}

    def body(heads: Heads, number: Array) -> tuple[Heads, None]:
        rows = batch_indices(seed, number, protocol.batch_size, n)
        batch = scaled({name: feature[rows] for name, feature in features.items()}, scales)
        return step(heads, batch, labels[rows], rates, number / steps, protocol.l2), None

    return jax.lax.scan(body, init(widths, num_classes, len(rates)), jnp.arange(steps))[0]


def total_steps(n: int, epochs: int, batch_size: int) -> int:
    """Steps of a training on ``n`` images, rounded up."""
    return -(-n * epochs // batch_size)


@jax.jit
def guesses(heads: Heads, features: Mapping[str, Array], scales: Scales) -> dict[str, Array]:
    """{layer: (R, B) int}: the class that each head names."""
    found = {}
    groups = by_width({name: feature.shape[-1] for name, feature in features.items()})
    for width, stacked in _stack(scaled(features, scales)).items():
        layers = jax.vmap(lambda head, feature: _logits(head, feature).argmax(-1))
        named = jax.vmap(layers, in_axes=(0, None))(heads.params[width], stacked)  # (R, L, B)
        found |= {name: named[:, i] for i, name in enumerate(groups[width])}
    return found


def accuracies(
    heads: Heads, features: Mapping[str, np.ndarray], labels: np.ndarray, scales: Scales
) -> dict[str, np.ndarray]:
    """{layer: (R,) float64}: the share of images that each head names right; in batches, which
    bound the memory.
    """
    right: dict[str, Any] = dict.fromkeys(features, 0)
    for start in range(0, len(labels), CHUNK):
        rows = slice(start, start + CHUNK)
        found = guesses(heads, {name: feature[rows] for name, feature in features.items()}, scales)
        for name, guess in found.items():
            right[name] += (np.asarray(guess) == labels[None, rows]).sum(axis=1)
    return {name: count / len(labels) for name, count in right.items()}


def linear_accuracy(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    protocol: Protocol,
    num_classes: int,
) -> float:
    """Trains heads on one layer's features and returns the best learning rate's accuracy in 0..1.

    Args:
      train: features (N, C) and labels (N,) that the heads are trained on.
      test: features (M, C) and labels (M,) that they are tested on.
      protocol: how heads are trained.
      num_classes: number of classes.
    """
    scales = standard_scale({"": train[0]})
    heads = fit({"": train[0]}, train[1], scales, protocol, num_classes=num_classes)
    return float(accuracies(heads, {"": test[0]}, test[1], scales)[""].max())


def knn_accuracy(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    k: int,
    temperature: float = 0.07,
) -> float:
    """Accuracy of the k nearest neighbours by cosine, each voting with ``exp(cosine /
    temperature)`` (DINO's).

    Features are standardised by the bank's mean and variance first: a cosine sees nothing where a
    mean dominates.

    Args:
      bank: (N, C) features with labels (N,). features: (M, C) to classify, with labels (M,).
    """
    from sklearn.neighbors import KNeighborsClassifier

    scales = standard_scale({"": bank})

    def unit(x: np.ndarray) -> np.ndarray:
        x = scaled({"": x}, scales)[""]
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    # On unit vectors |a - b|^2 = 2 - 2 cos; the factor exp(1 / temperature) that all votes share is
    # left out.
    vote = lambda distance: np.exp(-0.5 * np.square(distance) / temperature)
    classifier = KNeighborsClassifier(min(k, len(bank)), weights=vote, algorithm="brute")
    return float(classifier.fit(unit(bank), bank_labels).score(unit(features), labels))
