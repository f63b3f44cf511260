"""Numbers that the user gives in Python."""

from numbers import Integral, Real
from typing import Any

from ddaepp_jax.base.errors import InputError, shown

LARGEST = 3.4028234e38  # about the largest float32


def whole(field: str, value: Any, low: int, high: int) -> int:
    """Returns a whole number as an int; NumPy's are taken too, and bools are not.

    Args:
      field: argument that holds the number, for errors.
      low, high: range of the number, both included.

    Raises:
      InputError: the value is no whole number, or is out of range.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise InputError(
            f"{field}: {shown(value)} is not a whole number; give one, e.g. {max(low, 1)}"
        )
    if not low <= value <= high:
        wrong = "not positive" if value < low == 1 else "out of range"
        bits = (high + 1).bit_length() - 1
        top = f"2**{bits}-1" if high + 1 == 2**bits else high
        raise InputError(f"{field}: {value} is {wrong}; give one in {low}..{top}")
    return int(value)


def finite(field: str, value: Any) -> float:
    """Returns a finite number as a float; NumPy's are taken too, and bools are not.

    Raises:
      InputError: the value is no number, or is NaN or infinite, also as a float32; the message
        begins with ``field``.
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not abs(value) <= LARGEST:
        raise InputError(f"{field}: {shown(value)} is not a finite number; give one, e.g. 1.5")
    return float(value)
