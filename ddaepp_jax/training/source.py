"""Where a step's batch comes from: the data set in device memory, or batches streamed from the
host.

Both give the same images for a step: batch = f(seed, step), whatever the number of devices and
  processes.
"""

import dataclasses
import itertools
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
      looped: one dispatch takes many steps: the whole set is on the device.
      shapes: of what the program is handed at a dispatch.
      fetch: ``(what it is handed, step) -> {"image" uint8, "label", "index"}``, the global batch;
        traced.
      open: ``(first step, last) -> iterator`` of what the program is handed; a resident set comes
        again and again.
    """

    looped: bool
    shapes: Mapping[str, jax.ShapeDtypeStruct]
    fetch: Callable[[Mapping[str, Array], Array], Mapping[str, Array]]
    open: Callable[[int, int], Iterator[Mapping[str, Array]]]


def _shapes(rows: int, data: Dataset, placed: NamedSharding) -> dict[str, jax.ShapeDtypeStruct]:
    numbers = jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=placed)
    return {
        "image": jax.ShapeDtypeStruct((rows, *data.image_shape), jnp.uint8, sharding=placed),
        "label": numbers,
    }


def resident(data: Dataset, seed: int, batch_size: int, mesh: Mesh, looped: bool = True) -> Source:
    """The whole set as uint8 on every device; each device gathers its part of the batch."""
    split = NamedSharding(mesh, parallel.BATCH)

    def fetch(arrays: Mapping[str, Array], step: Array) -> dict[str, Array]:
        index = jax.lax.with_sharding_constraint(
            batch_indices(seed, step, batch_size, len(data)), split
        )
        return {"image": arrays["image"][index], "label": arrays["label"][index], "index": index}

    def open(start: int, stop: int) -> Iterator[dict[str, Any]]:
        images, labels = data.arrays()
        return itertools.repeat(
            parallel.put({"image": images, "label": labels}, parallel.replicated(mesh))
        )

    return Source(looped, _shapes(len(data), data, parallel.replicated(mesh)), fetch, open)


def streamed(data: Dataset, seed: int, batch_size: int, mesh: Mesh, threads: int) -> Source:
    """Each process reads its rows of the batch ahead of the step."""
    split = NamedSharding(mesh, parallel.BATCH)

    def open(start: int, stop: int) -> Iterator[dict[str, Any]]:
        rows = _local_rows(split, batch_size)
        for batch in stream(data, seed, batch_size, start, stop, rows, threads):
            yield {
                name: jax.make_array_from_process_local_data(
                    split, value, (batch_size, *value.shape[1:])
                )
                for name, value in batch.items()
            }

    shapes = _shapes(batch_size, data, split)
    return Source(False, shapes | {"index": shapes["label"]}, lambda batch, step: batch, open)


def _local_rows(split: NamedSharding, batch_size: int) -> np.ndarray:
    """Positions in the global batch that this process's devices hold, ascending."""
    indices = split.addressable_devices_indices_map((batch_size,))
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in indices.values()]))
