"""Linear heads on frozen features, many at once.

A head is multinomial logistic regression, ``softmax(W z + b)`` on a feature ``z``; it starts at
zero and is trained by Adam with a cosine schedule to zero. ``vmap`` runs over the layers of one
width and over the learning rates. Heads are independent: trained together or one by one, they are
the same.
"""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import Array

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.data.order import batch_indices
from ddaepp_jax.probing.protocols import Protocol
from ddaepp_jax.probing.scaling import Scales, scaled, standard_scale
from ddaepp_jax.training.optimizer import float32

CHUNK = 4096  # images that are classified at once
ADAM = float32(optax.scale_by_adam())


@struct.dataclass
class Heads:
    """Heads for R learning rates and L layers of each width, with Adam's moments.

    Attributes:
      params: {width: {"kernel": (R, L, width, classes), "bias": (R, L, classes)}}.
      moments: Adam's moments as an optax state, with the same leading axes.
    """

    params: dict[str, dict[str, Array]]
    moments: dict[str, optax.OptState]


def by_width(widths: Mapping[str, int]) -> dict[str, list[str]]:
    """Groups the layers of {layer: width} by their width.

    Layers are sorted by name, as JAX sorts the keys of a dictionary that it traces.
    """
    return {
        str(width): sorted(layer for layer, own in widths.items() if own == width)
        for width in sorted(set(widths.values()))
    }


def _widths(features: Mapping[str, Array]) -> dict[str, int]:
    return {layer: feature.shape[-1] for layer, feature in features.items()}


def _stack(features: Mapping[str, Array]) -> dict[str, Array]:
    """Stacks features {layer: (B, C)} to {width: (L, B, C)}."""
    return {
        width: jnp.stack([features[layer] for layer in layers])
        for width, layers in by_width(_widths(features)).items()
    }


def init(widths: Mapping[str, int], num_classes: int, num_rates: int) -> Heads:
    """Makes heads at zero for layers {layer: width}."""
    params = {
        width: {
            "kernel": jnp.zeros((num_rates, len(layers), int(width), num_classes), jnp.float32),
            "bias": jnp.zeros((num_rates, len(layers), num_classes), jnp.float32),
        }
        for width, layers in by_width(widths).items()
    }
    moments = {width: jax.vmap(jax.vmap(ADAM.init))(stacked) for width, stacked in params.items()}
    return Heads(params, moments)


def _logits(head: Mapping[str, Array], feature: Array) -> Array:
    return feature @ head["kernel"] + head["bias"][None]


def step(
    heads: Heads,
    features: Mapping[str, Array],
    labels: Array,
    rates: Array,
    progress: Array,
    l2: float,
) -> Heads:
    """Moves every head by one step of Adam on its own loss.

    Args:
      heads: the heads.
      features: {layer: (B, C)}.
      labels: (B,) int.
      rates: (R,) peak learning rates.
      progress: () share of the training that is over, in 0..1, for the cosine schedule.
      l2: weight of ``|W|^2 / 2`` in the loss.
    """
    scale = 0.5 * (1 + jnp.cos(jnp.pi * progress))

    def move(head, moments, feature, rate):
        def loss(head):
            nll = optax.softmax_cross_entropy_with_integer_labels(_logits(head, feature), labels)
            return nll.mean() + 0.5 * l2 * jnp.sum(jnp.square(head["kernel"]))

        updates, moments = ADAM.update(jax.grad(loss)(head), moments)
        return jax.tree.map(lambda p, u: p - rate * scale * u, head, updates), moments

    move_layers = jax.vmap(move, in_axes=(0, 0, 0, None))
    move_all = jax.vmap(move_layers, in_axes=(0, 0, None, 0))
    moved = {
        width: move_all(heads.params[width], heads.moments[width], feature, rates)
        for width, feature in _stack(features).items()
    }
    return Heads(
        {width: params for width, (params, _) in moved.items()},
        {width: moments for width, (_, moments) in moved.items()},
    )


def total_steps(n: int, epochs: int, batch_size: int) -> int:
    """Returns the number of steps of a training on ``n`` images, rounded up.

    Raises:
      InputError: the steps are too many to be counted in 32 bits.
    """
    steps = -(-n * epochs // batch_size)
    if steps >= 2**31:
        raise InputError(f"epochs: {epochs} are {steps} steps; give fewer, or a larger batch_size")
    return steps


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
    """Trains heads on stored features in one dispatch, on one device.

    An epoch is N / batch_size steps, rounded up over the whole training; the order is that of
    ``data.order``.

    Args:
      features: {layer: (N, C)}.
      labels: (N,) int.
      scales: mean and deviation of each layer; an empty mapping leaves features as they are.
      protocol: how heads are trained.
      num_classes: number of classes.
      seed: seed of the images' order.
    """
    n = len(labels)
    rates = jnp.asarray(protocol.learning_rates, jnp.float32)
    steps = total_steps(n, protocol.epochs, protocol.batch_size)

    def body(heads: Heads, number: Array) -> tuple[Heads, None]:
        rows = batch_indices(seed, number, protocol.batch_size, n)
        batch = scaled({layer: feature[rows] for layer, feature in features.items()}, scales)
        return step(
            heads, batch, labels[rows], rates, number.astype(jnp.float32) / steps, protocol.l2
        ), None

    heads = init(_widths(features), num_classes, len(rates))
    heads, _ = jax.lax.scan(body, heads, jnp.arange(steps, dtype=jnp.int32))
    return heads


@jax.jit
def predictions(heads: Heads, features: Mapping[str, Array], scales: Scales) -> dict[str, Array]:
    """Returns each head's classes {layer: (R, B) int} for features {layer: (B, C)}."""
    classify = lambda head, feature: _logits(head, feature).argmax(-1)
    classify_layers = jax.vmap(jax.vmap(classify), in_axes=(0, None))
    groups = by_width(_widths(features))
    classes = {}
    for width, stacked in _stack(scaled(features, scales)).items():
        stacked_classes = classify_layers(heads.params[width], stacked)  # (R, L, B)
        for i, layer in enumerate(groups[width]):
            classes[layer] = stacked_classes[:, i]
    return classes


def accuracies(
    heads: Heads, features: Mapping[str, np.ndarray], labels: np.ndarray, scales: Scales
) -> dict[str, np.ndarray]:
    """Computes the accuracy of each head.

    Args:
      heads: trained heads.
      features: {layer: (N, C)}; they are read in chunks, which bounds the memory.
      labels: (N,) int.
      scales: the scales that the heads were trained with.

    Returns:
      {layer: (R,) float64 in 0..1}.
    """
    correct = {layer: 0 for layer in features}
    for start in range(0, len(labels), CHUNK):
        rows = slice(start, start + CHUNK)
        chunk = {layer: feature[rows] for layer, feature in features.items()}
        for layer, classes in predictions(heads, chunk, scales).items():
            correct[layer] += (np.asarray(classes) == labels[None, rows]).sum(axis=1)
    return {layer: count / len(labels) for layer, count in correct.items()}


def linear_accuracy(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    protocol: Protocol,
    num_classes: int,
) -> float:
    """Trains heads on one layer's features, standardised, and tests them.

    Args:
      train: features (N, C) and labels (N,) that the heads are trained on.
      test: features (M, C) and labels (M,) that they are tested on.
      protocol: how heads are trained.
      num_classes: number of classes.

    Returns:
      The best learning rate's accuracy in 0..1.
    """
    train_features, train_labels = train
    test_features, test_labels = test
    scales = standard_scale({"": train_features})
    heads = fit({"": train_features}, train_labels, scales, protocol, num_classes=num_classes)
    return float(accuracies(heads, {"": test_features}, test_labels, scales)[""].max())
