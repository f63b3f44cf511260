"""The dataclass of a reference's arguments, whose values are checked."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import pydantic
from pydantic.dataclasses import dataclass

from ddaepp_jax.base.errors import InputError

# Decorates the dataclass. No value is converted to another type, except that a whole number may
# stand for a float, and a list for a tuple.
arguments_of_reference = partial(
    dataclass,
    frozen=True,
    config=pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False),
)

# The bounds are beyond all networks; a number above them would take the memory of the machine.
Size = Annotated[int, pydantic.Field(gt=0, le=2**16)]
Count = Annotated[int, pydantic.Field(ge=-1, le=2**20)]  # 0 or -1: none
Ratio = Annotated[float, pydantic.Field(gt=0, le=1000)]
Probability = Annotated[float, pydantic.Field(ge=0, le=1)]
AsTuple = pydantic.Field(strict=False)
Sizes = Annotated[tuple[Size, ...], AsTuple]
Flags = Annotated[tuple[bool, ...], AsTuple]
ImageShape = Annotated[tuple[Size, Size, Size], AsTuple]


def checked(kind: str, build: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Builds the dataclass of a kind's arguments.

    Raises:
      InputError: there is no such argument, or its value is wrong.
    """
    try:
        return build(**arguments)
    except pydantic.ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        name = mistake["loc"][0]
        if mistake["type"] == "unexpected_keyword_argument":
            names = ", ".join(field for field in build.__dataclass_fields__)
            raise InputError(f"{kind}: no argument {name!r}; its arguments are {names}") from None
        rule = mistake["msg"].removeprefix("Input ")
        raise InputError(f"{kind}: {name}={arguments[name]!r} is wrong; it {rule}") from None
