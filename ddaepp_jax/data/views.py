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
        image: (B, H, W, C) float32; in [-1, 1], but for the overshoot of EDM's filter.
        augment_label: (B, 9) float32, see ``geometric.label``; None without EDM's pipeline.
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
    """Two augmentations of each image, a function of (seed, step, its index) alone and independent
    of each other.

    Args:
        images: (B, H, W, C) uint8.
        seed, step: integers, may be traced.
        index: (B,) int, the images' numbers in the data set.
        geometric: probability of each of EDM's geometric transformations, which come last; 0: none,
          and no label.
        photometric: MoCo v3's augmentation, which comes first; None: none.
        flip: whether to mirror with probability 1/2 where neither of these is there to do it.
    """

    def one(number: int) -> View:
        seen, label = images, None
        if flip and not geometric and photometric is None:
            seen = horizontal_flip(seen, seed, step, index, f"flip_{number}")
        seen = to_float(seen)
        if photometric is not None:
            seen = moco.augment(seen, photometric, seed, step, index, number)
        if geometric:
            seen, label = edm.augment(seen, seed, step, index, geometric, f"geometric_{number}")
        return View(seen, label)

    return one(0), one(1)
