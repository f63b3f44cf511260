"""The protocols for training linear heads, by name; this module needs no JAX."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How heads are trained.

    Attributes:
      fresh: whether noise and augmentation are drawn anew at every step; otherwise features are
        computed once and kept.
      epochs: epochs of the heads' training.
      batch_size: images of a step.
      learning_rates: a head is trained for each; the images that choose the layer also choose the
        rate.
      standardise: whether features are scaled to mean 0 and variance 1 over the training images (a
        batch norm without parameters).
      l2: weight of ``|W|^2 / 2`` in the loss; scikit-learn's ``C`` is ``1 / (N l2)``.
    """

    fresh: bool
    epochs: int
    batch_size: int
    learning_rates: tuple[float, ...]
    standardise: bool
    l2: float = 0.0


PROTOCOLS = {
    # DDAE (arXiv 2303.09769): a plain Linear on random crops and flips.
    "online": Protocol(
        fresh=True, epochs=15, batch_size=512, learning_rates=(4e-3,), standardise=False
    ),
    # One stored feature for each image is ten times cheaper. Pixels need a low rate, correlated
    # features a high one.
    "cached": Protocol(
        fresh=False,
        epochs=15,
        batch_size=512,
        learning_rates=(1e-3, 4e-3, 1.6e-2, 6.4e-2),
        standardise=True,
    ),
    # l-DAE (arXiv 2401.14404): a batch norm without parameters, then a Linear.
    "imagenet": Protocol(
        fresh=True, epochs=90, batch_size=16384, learning_rates=(6.4e-3,), standardise=True
    ),
}
