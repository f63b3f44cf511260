"""The rows of ``metrics.jsonl``: one JSON object in a line, with its "step"."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.files import replacing

NAME = "metrics.jsonl"
LONGEST = 1 << 20  # bytes of a line; a longer one is no row, and is read in pieces


def lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yields the lines of a file with their ends; a line above ``LONGEST`` in pieces."""
    return iter(lambda: stream.readline(LONGEST), b"")


def parse(line: bytes) -> dict[str, float]:
    """Returns the row in a line: a "step" in 0..2**63-1, and numbers by name.

    Raises:
      ValueError: the line is not a row.
    """
    try:
        row = json.loads(line.decode())
        step = row["step"]
        values = {
            name: value if type(value) is float else _number(value) for name, value in row.items()
        }
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
        raise ValueError("not a row of metrics") from None
    if type(step) is not int or not 0 <= step < 2**63:
        raise ValueError("a row of metrics without a step")
    return {**values, "step": step}


def _number(value: float) -> float:
    """Returns a JSON number or truth value as a float."""
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def was_cut_off(line: bytes) -> bool:
    """Whether a line is the beginning of a row, which a process left when it died, or writes."""
    return line.startswith(b"{") and not line.endswith(b"\n")


def check_writable(file: Path) -> None:
    """Checks that rows can be added to a file, which need not exist.

    Raises:
      InputError: the file is something else, or cannot be read or written.
    """
    try:
        if file.exists() and not file.is_file():
            raise InputError(f"{file}: is not a file; remove it, or use another --workdir")
        with file.open("a+b"):
            pass
    except OSError as error:
        raise InputError(
            f"{file}: cannot be written ({error.strerror}); make it writable, or use another "
            "--workdir"
        ) from None


def cut(file: Path, step: int) -> int:
    """Removes the rows past a step, and the lines that are no rows.

    The file is read line by line, and replaced only if a line has to go. Lines that are no rows are
    added to a file beside it, named ``metrics.jsonl.damaged``; a row that was cut off is not.

    Args:
      file: a file that ``check_writable`` accepts.
      step: the last step whose rows stay.

    Returns:
      The number of lines that were moved to the file beside it.
    """
    with file.open("rb") as old:
        good = 0  # bytes at the beginning that stay
        for line in lines(old):
            if not (_stays(line, step) and line.endswith(b"\n")):
                break
            good += len(line)
        else:
            return 0
        damaged = 0
        old.seek(0)
        with replacing(file) as new:
            for start in range(0, good, LONGEST):
                new.write(old.read(min(LONGEST, good - start)))
            for line in lines(old):
                stays = _stays(line, step)
                if stays:
                    new.write(line if line.endswith(b"\n") else line + b"\n")
                elif stays is None and not was_cut_off(line):
                    with file.with_name(f"{file.name}.damaged").open("ab") as aside:
                        aside.write(line)
                    damaged += 1
    return damaged


def _stays(line: bytes, step: int) -> bool | None:
    """Whether a line holds a row up to a step; None if it is not a row."""
    try:
        return parse(line)["step"] <= step
    except ValueError:
        return None
