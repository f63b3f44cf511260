"""The memory of a train program: whether a device has it, and the form of a step that fits.

The bytes are those that the compiler counts. Nothing is run.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

GIB = 2**30

# Bytes that a program may use on one device, as the compiler for TPUs says when it refuses one. A
# key is a part of ``jax.Device.device_kind``, before others that it contains.
CAPACITY = {"TPU v5 lite": 15.75 * GIB, "TPU v5": 95.73 * GIB, "TPU v6 lite": 31.24 * GIB}


@dataclasses.dataclass(frozen=True)
class Form:
    """A form of a train step; remat and parts change its numbers by rounding alone.

    Attributes:
      remat: name of what the backward pass computes again, see ``models.remat.POLICIES``.
      parts: number of parts that a batch is taken in.
      batch_size: number of images of the global batch.
    """

    remat: str
    parts: int
    batch_size: int


class Compiled(Protocol):
    """A compiled program, of which the bytes in use on one device are known."""

    memory: int


Compile = Callable[[Form], Compiled]


class DoesNotFitError(Exception):
    """No form of a step fits into a device's memory.

    Attributes:
      form: the form that takes the least memory.
      needed, capacity: bytes that it needs and that a device has.
      largest: the largest batch that fits in this form; 0 if none does.
    """

    def __init__(self, form: Form, needed: int, capacity: int, largest: int) -> None:
        super().__init__(form, needed, capacity, largest)
        self.form = form
        self.needed = needed
        self.capacity = capacity
        self.largest = largest


def capacity(mesh: Mesh) -> int | None:
    """Returns the bytes that a program may use on each device; None where that is not known.

    It is the same number in all processes, which have to choose the same program. A CPU has none.
    """
    devices = list(mesh.devices.flat)
    own = [device for device in devices if device.process_index == jax.process_index()]
    size = _capacity((own or devices)[0])
    if jax.process_count() > 1:
        # In float32, as JAX has no larger integers by default.
        sizes = multihost_utils.process_allgather(np.float32(size or 0))
        size = int(np.min(sizes))
    return size or None


def _capacity(device: jax.Device) -> int | None:
    try:
        stats = device.memory_stats() or {}
    except jax.errors.JaxRuntimeError:  # A device that is compiled for need not be present.
        stats = {}
    kind = device.device_kind
    known = next((size for name, size in CAPACITY.items() if name in kind), 0)
    return stats.get("bytes_limit") or int(known) or None


def fit(
    compile: Compile, forms: Sequence[Form], capacity: int | None, multiple: int
) -> tuple[Compiled, Form]:
    """Compiles the first form that fits into a device's memory.

    Args:
      compile: compiles the program of a form.
      forms: forms of one batch, the first one preferred, the last one with the least memory.
      capacity: bytes of a device; None: what the compiler accepts fits.
      multiple: the number of devices that share a batch.

    Raises:
      DoesNotFitError: none fits.
    """
    for form in forms:
        program, needed, available = attempt(compile, form, capacity)
        if program:
            return program, form
    multiple *= form.parts
    largest = largest_batch(compile, form, needed, available, multiple)
    raise DoesNotFitError(form, needed, available, largest)


def attempt(
    compile: Compile, form: Form, capacity: int | None
) -> tuple[Compiled | None, int, int | None]:
    """Returns the program if it fits, the bytes that it needs, and those that a device has."""
    try:
        program = compile(form)
    except jax.errors.JaxRuntimeError as error:
        sizes = refused_sizes(str(error))
        if sizes is None:
            raise
        return None, *sizes
    fits = capacity is None or program.memory <= capacity
    return program if fits else None, program.memory, capacity


def refused_sizes(message: str) -> tuple[int, int] | None:
    """Reads the bytes needed and available off the error of a compiler; None of other errors."""
    sizes = re.search(
        r"RESOURCE_EXHAUSTED.*?([\d.]+)([KMGT]?)\)? (?:of|exceeds available \w+) "
        r"\(?([\d.]+)([KMGT]?)",
        message,
        re.DOTALL,
    )
    if sizes is None:
        return None
    units = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
    needed, unit, available, other = sizes.groups()
    return int(float(needed) * 1024 ** units[unit]), int(float(available) * 1024 ** units[other])


# Compilations that look for the largest batch.
TRIALS = 3


def largest_batch(compile: Compile, form: Form, needed: int, capacity: int, multiple: int) -> int:
    """Returns the largest batch found to fit; 0 if none was.

    Memory grows with the batch along a line through two compiled sizes, except for padding and for
    what the compiler saves by itself where memory is short. So the line's answer is compiled too,
    and joins the points of the line.
    """
    sizes = {form.batch_size: needed}
    fitting = 0
    trial = form.batch_size // multiple // 2 * multiple
    for _ in range(TRIALS):
        if trial < multiple or trial in sizes:
            break
        program, sizes[trial], _ = attempt(
            compile, dataclasses.replace(form, batch_size=trial), capacity
        )
        fitting = max(fitting, trial if program else 0)
        trial = min(on_line(sizes, capacity) // multiple * multiple, form.batch_size - multiple)
    return fitting


def on_line(sizes: dict[int, int], capacity: int) -> int:
    """Returns the batch that takes a capacity, on the line through the two smallest batches."""
    (small, low), (large, high) = sorted(sizes.items())[:2]
    slope = max(high - low, 1) / (large - small)
    return int(small + (capacity - low) / slope)
