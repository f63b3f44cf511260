"""Random numbers that belong to an image, not to a batch: image i's draws are a function of (seed,
stream, i) alone.
"""

import jax
from jax import Array

from ddaepp_jax.base.streams import named


def image_keys(seed: int, stream: str, ids: Array) -> Array:
    """(B,) keys, one an image. ``stream`` names the use, so that two uses of a seed are
    independent.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(named(jax.random.key(seed), stream), ids)


def image_noise(keys: Array, shape: tuple[int, ...]) -> Array:
    """(B, *shape) standard normal, bitwise the same at any batch size and device count.

    Image by image: every image runs through the same compiled body. A vectorised draw is faster,
      but a compiler may
    round its last bits by an image's place in the vector.
    """
    return jax.lax.map(lambda key: jax.random.normal(key, shape), keys)


def step_noise(keys: Array, step: Array, shape: tuple[int, ...]) -> Array:
    """(B, *shape) standard normal, a function of each image's key and the number of the step or
    draw; vectorised.
    """
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, step), shape))(keys)
