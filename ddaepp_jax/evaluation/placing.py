"""Batches of a known number of examples over all devices of a mesh, padded where they don't fill it."""

from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def split(mesh: Mesh) -> NamedSharding:
    """Examples split over every axis of the mesh."""
    return NamedSharding(mesh, P(mesh.axis_names))


def whole(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, P())


def batches(n: int, batch_size: int, mesh: Mesh) -> Iterator[tuple[np.ndarray, int]]:
    """Rows of ``n`` examples in batches of one shape that the devices divide.

    Yields:
      (B,) int32 row numbers, the last repeated as padding, and how many of them count.
    """
    size = -(-batch_size // mesh.size) * mesh.size
    for start in range(0, n, size):
        rows = np.arange(start, start + size, dtype=np.int32)
        yield np.minimum(rows, n - 1), min(size, n - start)


def place(mesh: Mesh, *arrays: np.ndarray) -> list[jax.Array]:
    """Host arrays that every process holds whole, their rows split over the devices."""
    return [jax.make_array_from_callback(a.shape, split(mesh), lambda index, a=a: a[index]) for a in arrays]
