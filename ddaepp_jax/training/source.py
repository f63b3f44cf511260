"""Sources of batches: a data set in device memory, or a stream from the host.

Both give the same images for a step: the batch is a function of (seed, step), whatever the number
of devices and processes.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding

from ddaepp_jax.base import parallel
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.data.order import batch_indices
from ddaepp_jax.data.stream import stream


@dataclasses.dataclass(frozen=True)
class Source:
    """Batches for the train program.

    Attributes:
      looped: whether one dispatch takes many steps, which needs the whole set in device memory.
      image_shape: (H, W, C) of an image.
      shapes: shapes of the arrays that a dispatch receives.
      fetch: ``(arrays, step) -> {"image", "label", "index"}``, the global batch as the data set
        reads it; traced.
      open: ``(start, stop) -> iterator`` over the arrays of each dispatch, from step ``start`` to
        ``stop - 1``; a resident set always yields the same arrays.
    """

    looped: bool
    image_shape: tuple[int, int, int]
    shapes: Mapping[str, jax.ShapeDtypeStruct]
    fetch: Callable[[Mapping[str, Array], Array], Mapping[str, Array]]
    open: Callable[[int, int], Iterator[Mapping[str, Array]]]


def _shapes(
    images: tuple[int, ...], dtype: np.dtype, placed: NamedSharding
) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        "image": jax.ShapeDtypeStruct(images, dtype, sharding=placed),
        "label": jax.ShapeDtypeStruct(images[:1], jnp.int32, sharding=placed),
    }


def resident(data: Dataset, seed: int, batch_size: int, mesh: Mesh, looped: bool = True) -> Source:
    """Makes a source that holds the whole set on every device.

    Each device gathers its own part of the batch. The set lies there as (N, H * W * C): a TPU pads
    the last axes of an array to whole tiles, and would copy a set (N, H, W, C) into another layout
    at every dispatch.
    """
    replicated = parallel.replicated(mesh)
    split = NamedSharding(mesh, parallel.BATCH)

    def fetch(arrays: Mapping[str, Array], step: Array) -> dict[str, Array]:
        index = batch_indices(seed, step, batch_size, len(data))
        index = jax.lax.with_sharding_constraint(index, split)
        images = arrays["image"][index].reshape(batch_size, *data.record_shape)
        return {"image": images, "label": arrays["label"][index], "index": index}

    def open(start: int, stop: int) -> Iterator[dict[str, Any]]:
        images, labels = data.arrays()
        images = images.reshape(len(data), -1)
        return itertools.repeat(parallel.put({"image": images, "label": labels}, replicated))

    shapes = _shapes((len(data), math.prod(data.record_shape)), data.dtype, replicated)
    return Source(looped, data.image_shape, shapes, fetch, open)


def streamed(data: Dataset, seed: int, batch_size: int, mesh: Mesh, threads: int) -> Source:
    """Makes a source in which each process reads its rows of the batches ahead of the steps."""
    split = NamedSharding(mesh, parallel.BATCH)

    def open(start: int, stop: int) -> Iterator[dict[str, Any]]:
        rows = parallel.held_rows(split, batch_size)
        for batch in stream(data, seed, batch_size, start, stop, rows, threads):
            yield {
                name: jax.make_array_from_process_local_data(
                    split, value, (batch_size, *value.shape[1:])
                )
                for name, value in batch.items()
            }

    shapes = _shapes((batch_size, *data.record_shape), data.dtype, split)
    shapes["index"] = shapes["label"]
    return Source(False, data.image_shape, shapes, lambda batch, step: batch, open)
