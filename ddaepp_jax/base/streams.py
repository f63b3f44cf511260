"""Named random streams.

Each random number of a run is a function of (seed, stream, step or image).
"""

import zlib

import jax
from jax import Array


def named(key: Array, name: str) -> Array:
    """Returns the key of a stream; streams of different names are independent."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
