"""The device mesh, and where arrays live on it."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.processes import together

AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))  # A training batch is split over both axes.


def make_mesh(sizes: Sequence[int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Makes a mesh with the axes data, fsdp and tensor.

    Several slices of TPUs, between which transfers are slow, lie along ``data``.

    Args:
      sizes: devices along each axis; one size may be -1, which takes the remaining devices.
      devices: all devices by default.

    Raises:
      InputError: the product of the sizes is not the number of devices, or the axes fsdp and
        tensor do not lie within a slice.
    """
    devices = jax.devices() if devices is None else devices
    sizes = list(sizes)
    n = len(devices)
    text = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) == 1:
        rest = int(np.prod([size for size in sizes if size != -1]))
        if rest > 0 and n % rest == 0:
            sizes[sizes.index(-1)] = n // rest
    if min(sizes) < 1 or np.prod(sizes) != n:
        raise InputError(
            f"{text}: there are {n} devices, and the product of the sizes must be {n}; "
            "one size may be -1, which takes the rest"
        )
    types = (AxisType.Auto,) * 3
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return jax.make_mesh(sizes, AXES, axis_types=types, devices=devices)
    data, *inner = sizes
    if data % slices:
        raise InputError(
            f"{text}: the devices are {slices} slices of {n // slices}, and a slice has to hold "
            f"whole parameters; let mesh.fsdp * mesh.tensor divide {n // slices}"
        )
    arranged = mesh_utils.create_hybrid_device_mesh(
        (data // slices, *inner), (slices, 1, 1), devices
    )
    return Mesh(arranged, AXES, axis_types=types)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


def split(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of examples whose first axis is split over all axes of the mesh."""
    return NamedSharding(mesh, P(mesh.axis_names))


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Moves host arrays, which every process holds whole, to the devices.

    No process waits for another.
    """

    def leaf(array: np.ndarray) -> jax.Array:
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(leaf, tree)


def place(mesh: Mesh, *arrays: np.ndarray) -> list[jax.Array]:
    """Moves host arrays, which every process holds whole, to the devices, split by rows."""
    return [put(array, split(mesh)) for array in arrays]


def held_rows(sharding: NamedSharding, n: int) -> np.ndarray:
    """Returns which of ``n`` rows the devices of this process hold, ascending."""
    indices = sharding.addressable_devices_indices_map((n,))
    return np.unique(np.concatenate([np.arange(n)[index] for index in indices.values()]))


def read_rows(
    mesh: Mesh,
    rows: np.ndarray,
    read: Callable[[np.ndarray], Sequence[np.ndarray]],
    computed: bool = False,
) -> list[jax.Array]:
    """Reads a batch to the devices, split by rows; a process reads what its own devices hold.

    All processes have to call it. What reading raises in one of them is raised in all.

    Args:
      mesh: the devices.
      rows: (B,) numbers of the rows.
      read: maps numbers (b,) to arrays with b rows.
      computed: whether ``read`` computes on all devices, so that every process calls it with all
        rows.
    """
    placed = split(mesh)
    held = np.arange(len(rows)) if computed else held_rows(placed, len(rows))
    arrays = together(lambda: read(rows[held]))

    def put_rows(array: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(len(rows))
            first = np.searchsorted(held, start)
            return array[first : first + stop - start]

        return jax.make_array_from_callback((len(rows), *array.shape[1:]), placed, part)

    return [put_rows(array) for array in arrays]


def on_host(array: jax.Array) -> jax.Array:
    """Returns an array that every process can read, from one that is split over all devices.

    With a single process it is the same array.
    """
    return array if array.is_fully_addressable else _gather(array.sharding.mesh)(array)


@lru_cache(maxsize=16)
def _gather(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda array: array, out_shardings=replicated(mesh))


def local(tree: Any) -> Any:
    """Returns the copies of arrays that the first device of this process holds whole."""
    return jax.tree.map(lambda array: array.addressable_data(0), tree)


def batches(n: int, batch_size: int, mesh: Mesh) -> Iterator[tuple[np.ndarray, int]]:
    """Splits ``n`` examples into batches of one size, a multiple of the number of devices.

    There are as few batches as ``batch_size`` allows. Their size is the smallest that holds the
    examples, rounded up by at most a quarter (``_rounded``): padding costs little, and sets of all
    lengths share few sizes, each of which is compiled.

    Yields:
      (B,) int32 row numbers, where the last row is repeated as padding, and the number of rows
      that are not padding.
    """
    most = -(-batch_size // mesh.size)
    count = max(1, -(-n // (most * mesh.size)))
    rows_each = max(1, -(-n // (count * mesh.size)))
    size = min(most, _rounded(rows_each)) * mesh.size
    for start in range(0, n, size):
        rows = np.arange(start, start + size, dtype=np.int32)
        yield np.minimum(rows, n - 1), min(size, n - start)


def _rounded(rows: int) -> int:
    """Rounds up to a number of three binary digits and zeros: .., 7, 8, 10, 12, 14, 16, 20, .."""
    unit = 1 << max(0, rows.bit_length() - 3)
    return -(-rows // unit) * unit
