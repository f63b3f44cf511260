"""The lookup of a name that the user gave."""

import difflib
from collections.abc import Collection
from typing import Any

from ddaepp_jax.base.errors import InputError, shown


def choose(field: str, name: str, choices: Collection[str]) -> Any:
    """Returns ``choices[name]`` of a dictionary, or ``name`` itself of any other collection.

    Args:
      field: config field or argument that holds the name.

    Raises:
      InputError: ``choices`` does not contain the name; the message begins with ``field``.
    """
    if not isinstance(name, str) or name not in choices:
        raise InputError(
            f"{field}: {shown(name)} is not one of {', '.join(choices)}"
            f"{did_you_mean(name, choices)}"
        )
    return choices[name] if isinstance(choices, dict) else name


def did_you_mean(name: Any, choices: Collection[str]) -> str:
    """Returns "; did you mean NAME?" for the nearest choice; "" if none is near."""
    near = difflib.get_close_matches(str(name), choices, n=1)
    return f"; did you mean {near[0]}?" if near else ""
