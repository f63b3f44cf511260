"""The config of a command line: ``--config=FILE[:VARIANT] --config.FIELD=VALUE ..``."""

import ast
import difflib
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FieldReference

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.config.default import get_config
from ddaepp_jax.config.validation import mistakes, refuse


def parse_config(argv: Sequence[str], default: Callable[[], ConfigDict] = get_config) -> ConfigDict:
    """Returns the config of a command line, locked; its values are not validated yet.

    Args:
      argv: ``--config=FILE[:VARIANT]`` and overrides ``--config.FIELD=VALUE``, in any order; the
        last value of a field counts.
      default: the config where no file is given.

    Raises:
      InputError: an argument is none of these, names no config file or no field, or has a value of
        another type than the field's. Then the wrong values of other fields are reported too.
    """
    source = None
    overrides = []
    for argument in argv:
        name, equals, text = argument.partition("=")
        if not name.startswith("--config.") and name != "--config":
            raise InputError(f"{argument}: not an argument of this program; see --help")
        if not equals:
            raise InputError(f"{name}: needs a value; write {name}=VALUE")
        if name == "--config":
            source = text
        else:
            overrides.append((name.removeprefix("--config."), text))
    config = (default() if source is None else _read_file(source)).lock()
    lines = []
    for field, text in overrides:
        try:
            _override(config, field, text)
        except InputError as error:
            lines.append(str(error))
    if lines:
        refuse([*lines, *mistakes(config)])
    return config


def _read_file(source: str) -> ConfigDict:
    """Returns the config of FILE[:VARIANT].

    An exception of the file's own code passes through, as a bug.
    """
    file, _, variant = source.partition(":")
    path = Path(file)
    if not path.is_file() or path.suffix != ".py":
        exists = file and path.exists()
        what = f"{file} is not a Python file" if exists else f"no file {file!r}"
        raise InputError(f"--config: {what}; give a config file, e.g. configs/NAME.py")
    spec = importlib.util.spec_from_file_location("config_file", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, "get_config", None)
    if not callable(function):
        raise InputError(
            f"--config: {file} has no function get_config; see configs/uvit_digits.py for one"
        )
    if variant and not inspect.signature(function).parameters:
        raise InputError(f"--config: {file} has no variants; leave :{variant} out")
    config = function(variant) if variant else function()
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"--config: get_config of {file} returns a {type(config).__name__}; "
            "let it return a ConfigDict"
        )
    return config


def _override(config: ConfigDict, field: str, text: str) -> None:
    """Sets a field, named with dots, to the value of a text."""
    *groups, name = field.split(".")
    holder = config
    for group in groups:
        holder = holder.get(group) if isinstance(holder, ConfigDict) else None
    if not isinstance(holder, ConfigDict) or name not in holder:
        near = difflib.get_close_matches(field, _names(config), n=1)
        groups_of_fields = f"the groups of fields are {', '.join(config)}"
        mend = f"did you mean {near[0]}?" if near else groups_of_fields
        raise InputError(f"--config.{field}: no such field; {mend}")
    if isinstance(holder[name], ConfigDict):
        raise InputError(
            f"--config.{field}: this is a group; set one of its fields, "
            f"--config.{field}.FIELD=VALUE ({', '.join(holder[name])})"
        )
    reference = dict(holder.items(preserve_field_references=True))[name]
    if isinstance(reference, FieldReference) and text == "None":
        holder[name] = None
    else:
        holder[name] = _value(field, text, holder.get_type(name))


def _names(config: ConfigDict, prefix: str = "") -> list[str]:
    """Returns the dotted names of all fields and groups."""
    names = []
    for name, value in config.items():
        names.append(prefix + name)
        if isinstance(value, ConfigDict):
            names += _names(value, f"{prefix}{name}.")
    return names


_WORDS = {
    int: "an int",
    float: "a float",
    bool: "a bool; write True or False",
    tuple: "a tuple; write it with a comma, e.g. (1,), and quote it for the shell",
}


def _value(field: str, text: str, kind: type) -> Any:
    """Returns the value of type ``kind`` that a text stands for."""
    if kind is str:
        return text
    try:
        if kind in (int, float):
            return kind(text)
        value = ast.literal_eval(text.capitalize() if kind is bool else text)
    except (ValueError, SyntaxError):
        value = None
    if not isinstance(value, kind):
        raise InputError(f"--config.{field}: {text!r} is not {_WORDS[kind]}")
    return value
