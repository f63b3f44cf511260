"""Two views of each image, augmented independently, for objectives that compare them."""

from typing import NamedTuple

import jax

from ddaepp_jax.data import geometric as edm
from ddaepp_jax.data import photometric as moco
from ddaepp_jax.data.augment import horizontal_flip, to_float
from ddaepp_jax.data.photometric import Photometric


class View(NamedTuple):
    """B augmented images.

    Attributes:
      image: (B, H, W, C) float32 in [-1, 1], except where EDM's filter overshoots.
      augment_label: (B, 9) float32, see ``geometric.label``; None without EDM's augmentation.
    """

    image: jax.Array
    augment_label: jax.Array | None


def two_views(
    images: jax.Array,
    seed: int | jax.Array,
    step: int | jax.Array,
    index: jax.Array,
    *,
    geometric: float,
    photometric: Photometric | None,
    flip: bool,
) -> tuple[View, View]:
    """Augments each image twice, independently.

    The views of an image depend on (seed, step, its index) alone.

    Args:
      images: (B, H, W, C) uint8.
      seed, step: integers, may be traced.
      index: (B,) int, the images' numbers in the data set.
      geometric: probability of each of EDM's geometric transformations, which are applied last;
        0 applies none, and gives no label.
      photometric: MoCo v3's augmentation, which is applied first; None applies none.
      flip: whether to mirror with probability 1/2 if neither of the two augmentations does.
    """

    def view(number: int) -> View:
        image = images
        label = None
        if flip and not geometric and photometric is None:
            image = horizontal_flip(image, seed, step, index, f"flip_{number}")
        image = to_float(image)
        if photometric is not None:
            image = moco.augment(image, photometric, seed, step, index, number)
        if geometric:
            image, label = edm.augment(image, seed, step, index, geometric, f"geometric_{number}")
        return View(image, label)

    return view(0), view(1)
