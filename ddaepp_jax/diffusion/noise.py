"""Random numbers of images: those of image i depend on (seed, stream, i) alone."""

import jax
import jax.numpy as jnp
from jax import Array

from ddaepp_jax.base.streams import named


def image_keys(seed: int, stream: str, ids: Array) -> Array:
    """Returns (B,) keys, one for each image.

    Args:
      stream: name of the use; streams of different names are independent.
      ids: (B,) numbers of the images.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(named(jax.random.key(seed), stream), ids)


def image_noise(keys: Array, shape: tuple[int, ...]) -> Array:
    """Draws (B, *shape) standard normal noise, bitwise the same at any batch size and device count.

    Every image runs through the same compiled body, one after another. A vectorised draw is faster,
    but a compiler may round its last bits by an image's place in the vector.
    """
    return jax.lax.map(lambda key: jax.random.normal(key, shape, jnp.float32), keys)


def step_noise(keys: Array, step: Array, shape: tuple[int, ...]) -> Array:
    """Draws (B, *shape) standard normal noise, vectorised.

    It is a function of each image's key and ``step``, the number of the step or draw.
    """
    normal = lambda key: jax.random.normal(jax.random.fold_in(key, step), shape, jnp.float32)
    return jax.vmap(normal)(keys)
