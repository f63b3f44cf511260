"""Conversion between pixels and floats, and the flips and crops inside the training step."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ddaepp_jax.base.streams import named

Array = TypeVar("Array", np.ndarray, jax.Array)


def to_float(images: Array) -> Array:
    """Converts uint8 images of any shape, in 0..255, to float32 in [-1, 1]; NumPy or JAX.

    Floats are latents, and stay as they are.
    """
    if images.dtype != np.uint8:
        return images
    return images.astype(np.float32) / 127.5 - 1


def to_uint8(images: Array) -> Array:
    """Converts float images of any shape, in [-1, 1], to uint8; NumPy or JAX.

    Values are rounded to the nearest level and clipped.
    """
    xp = jnp if isinstance(images, jax.Array) else np
    return xp.clip(xp.round((images.astype(np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)


def is_flipped(
    seed: int | jax.Array, step: int | jax.Array, index: jax.Array, stream: str = "flip"
) -> jax.Array:
    """Returns which images are mirrored, (B,) bool; see ``horizontal_flip`` for the arguments."""
    key = jax.random.fold_in(named(jax.random.key(seed), stream), step)
    half = jnp.float32(0.5)
    return jax.vmap(lambda i: jax.random.bernoulli(jax.random.fold_in(key, i), half))(index)


def horizontal_flip(
    images: jax.Array,
    seed: int | jax.Array,
    step: int | jax.Array,
    index: jax.Array,
    stream: str = "flip",
) -> jax.Array:
    """Mirrors each image left to right with probability 1/2.

    Whether an image is flipped depends on (seed, stream, step, its index) alone, not on its
    neighbours or its place in the batch. So it does not depend on how the batch is split over
    devices.

    Args:
      images: (B, H, W, C), any type.
      seed, step: integers, may be traced.
      index: (B,) int, the images' numbers in the data set.
      stream: name of the random stream; streams with different names are independent.

    Returns:
      (B, H, W, C) of the same type.
    """
    flip = is_flipped(seed, step, index, stream)
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1, :], images)


def random_crop(
    images: jax.Array, seed: int | jax.Array, step: int | jax.Array, index: jax.Array, pad: int
) -> jax.Array:
    """Shifts each image by up to ``pad`` pixels each way.

    The image is padded with zeros (black), and a crop of the original size is taken. Like a
    horizontal flip, the crop depends on (seed, step, index) alone.

    Args:
      images: (B, H, W, C) uint8.
      seed, step: integers, may be traced.
      index: (B,) int, the images' numbers in the data set.
      pad: pixels added on each side.

    Returns:
      (B, H, W, C) of the same type.
    """
    key = jax.random.fold_in(named(jax.random.key(seed), "crop"), step)
    offsets = jax.vmap(
        lambda i: jax.random.randint(jax.random.fold_in(key, i), (2,), 0, 2 * pad + 1, jnp.int32)
    )(index)
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    return jax.vmap(
        lambda x, o: jax.lax.dynamic_slice(x, (o[0], o[1], jnp.int32(0)), images.shape[1:])
    )(padded, offsets)


def crop_pad(image_shape: tuple[int, int, int]) -> int:
    """Returns the padding of the crops that probes draw: 4 pixels for an image of 32."""
    return max(image_shape[:2]) // 8


def crop_and_flip(
    images: jax.Array,
    seed: int | jax.Array,
    step: int | jax.Array,
    index: jax.Array,
    *,
    pad: int,
    flip: bool,
) -> jax.Array:
    """Applies ``random_crop`` if ``pad`` is not 0, then ``horizontal_flip`` if ``flip``."""
    if pad:
        images = random_crop(images, seed, step, index, pad)
    if flip:
        images = horizontal_flip(images, seed, step, index)
    return images
