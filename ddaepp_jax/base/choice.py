"""A name of a config against the names that there are."""

from typing import Any

from ddaepp_jax.base.errors import InputError


def choose(field: str, name: str, choices: Any) -> Any:
    """``choices[name]`` (or name itself, of a sequence), with an error that lists what there is."""
    if name not in choices:
        raise InputError(f"{field}: no {name!r}; there is {', '.join(choices)}")
    return choices[name] if isinstance(choices, dict) else name
