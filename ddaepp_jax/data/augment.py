"""Pixels to floats and back, and the augmentation that runs inside the training step."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ddaepp_jax.base.streams import named

Array = TypeVar("Array", np.ndarray, jax.Array)


def to_float(images: Array) -> Array:
    """uint8 images in 0..255, any shape, as float32 in [-1, 1]; numpy or jax."""
    return images.astype(np.float32) / 127.5 - 1


def to_uint8(images: Array) -> Array:
    """Float images in [-1, 1], any shape, as uint8: rounded to the nearest level and clipped; numpy
    or jax.
    """
    xp = jnp if isinstance(images, jax.Array) else np
    return xp.clip(xp.round((images.astype(np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)


def horizontal_flip(
    images: jax.Array,
    seed: int | jax.Array,
    step: int | jax.Array,
    index: jax.Array,
    stream: str = "flip",
) -> jax.Array:
    """Mirrors each image left to right with probability 1/2.

    Whether an image is flipped is a function of (seed, stream, step, its index) alone, not of its
    neighbours or its place in the batch; so it does not depend on how the batch is split over
    devices.

    Args:
        images: (B, H, W, C), any type.
        seed, step: integers, may be traced.
        index: (B,) int, the images' numbers in the data set.
        stream: draws of another name are independent.

    Returns:
        (B, H, W, C) of the same type.
    """
    key = jax.random.fold_in(named(jax.random.key(seed), stream), step)
    flip = jax.vmap(lambda i: jax.random.bernoulli(jax.random.fold_in(key, i)))(index)
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1, :], images)


def random_crop(
    images: jax.Array, seed: int | jax.Array, step: int | jax.Array, index: jax.Array, pad: int
) -> jax.Array:
    """Shifts each image by up to ``pad`` pixels each way: zeros (black) around it, then a crop of
    its own size.

    As ``horizontal_flip``, a function of (seed, step, index) alone.

    Args:
        images: (B, H, W, C) uint8.

    Returns:
        (B, H, W, C) of the same type.
    """
    key = jax.random.fold_in(named(jax.random.key(seed), "crop"), step)
    offsets = jax.vmap(
        lambda i: jax.random.randint(jax.random.fold_in(key, i), (2,), 0, 2 * pad + 1)
    )(index)
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    return jax.vmap(lambda x, o: jax.lax.dynamic_slice(x, (o[0], o[1], 0), images.shape[1:]))(
        padded, offsets
    )


def crop_pad(image_shape: tuple[int, int, int]) -> int:
    """Pixels around an image (H, W, C) that probes draw crops from: 4 where it has 32."""
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
    """``random_crop`` where ``pad`` is not 0, then ``horizontal_flip`` where ``flip``."""
    images = random_crop(images, seed, step, index, pad) if pad else images
    return horizontal_flip(images, seed, step, index) if flip else images
