"""The lookup of a name that the user gave."""

from collections.abc import Collection
from typing import Any

from ddaepp_jax.base.errors import InputError


def choose(field: str, name: str, choices: Collection[str]) -> Any:
    """Returns ``choices[name]`` of a dictionary, or ``name`` itself of any other collection.

    Args:
      field: config field or argument that holds the name.

    Raises:
      InputError: ``choices`` does not contain the name; the message begins with ``field``.
    """
    if name not in choices:
        raise InputError(f"{field}: {name!r} is not one of {', '.join(choices)}")
    return choices[name] if isinstance(choices, dict) else name
