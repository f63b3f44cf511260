"""Large images in overlapping tiles, which bound the memory that an autoencoder takes."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array

OVERLAP = 4  # A tile overlaps the next one by one part in so many of its side.


def tiled(function: Callable[[Array], Array], x: Array, tile: int, ratio: float) -> Array:
    """Applies a function to overlapping tiles, and joins the results.

    In an overlap the two results are mixed: each counts alone in the quarter that is far from its
    own border, and the weight falls linearly between. So a function that sees no further than that
    quarter gives what it gives for the whole.

    Args:
      function: maps (B, h, w, C) to (B, ratio * h, ratio * w, C'), whatever the size.
      x: (B, H, W, C).
      tile: largest side of a tile; a multiple of 4 * ``OVERLAP``, and of 1 / ``ratio``.
      ratio: size of the result over the size of ``x``.

    Returns:
      (B, ratio * H, ratio * W, C').
    """
    if max(x.shape[1:3]) <= tile:
        return function(x)
    total = weight_sum = None
    for top, height in _spans(x.shape[1], tile):
        for left, width in _spans(x.shape[2], tile):
            part = function(x[:, top : top + height, left : left + width])
            if total is None:
                shape = tuple(int(side * ratio) for side in x.shape[1:3])
                total = jnp.zeros((len(x), *shape, part.shape[-1]), part.dtype)
                weight_sum = jnp.zeros((*shape, 1), part.dtype)
            rows = _weights(top, x.shape[1], part.shape[1], tile, ratio)
            columns = _weights(left, x.shape[2], part.shape[2], tile, ratio)
            weight = jnp.asarray(rows[:, None, None] * columns[None, :, None], part.dtype)
            y, z = int(top * ratio), int(left * ratio)
            place = (slice(y, y + part.shape[1]), slice(z, z + part.shape[2]))
            total = total.at[:, *place].add(part * weight[None])
            weight_sum = weight_sum.at[place].add(weight)
    return total / weight_sum[None]


def _spans(side: int, tile: int) -> list[tuple[int, int]]:
    """Returns the first positions and the lengths of the tiles along a side."""
    step = tile - tile // OVERLAP
    starts = range(0, max(1, side - tile // OVERLAP), step)
    return [(start, min(tile, side - start)) for start in starts]


def _weights(start: int, side: int, length: int, tile: int, ratio: float) -> np.ndarray:
    """Returns the weights of a tile's rows or columns: 1 inside and at the borders of the image."""
    overlap = tile // OVERLAP * ratio
    quarter = overlap / 4
    place = np.arange(length) + 0.5
    weights = np.ones(length)
    if start:
        weights = np.minimum(weights, (place - quarter) / (overlap - 2 * quarter))
    if start + length / ratio < side:
        weights = np.minimum(weights, (length - quarter - place) / (overlap - 2 * quarter))
    return np.clip(weights, 0, 1)
