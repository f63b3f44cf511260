"""The config of a command line: ``--config=FILE[:VARIANT]`` and ``--config.FIELD=VALUE``."""

import ast
import difflib
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FieldReference

from ddaepp_jax import config as schema
from ddaepp_jax.base.errors import InputError


def parse_config(
    argv: Sequence[str], default: Callable[[], ConfigDict] = schema.get_config
) -> ConfigDict:
    """The config of ``--config=FILE[:VARIANT]`` with overrides ``--config.FIELD=VALUE``, locked."""
    source, overrides = None, []
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
    config = (default() if source is None else _read_config(source)).lock()
    for field, text in overrides:
        _override(config, field, text)
    return config


def _read_config(source: str) -> ConfigDict:
    """What ``get_config`` of FILE[:VARIANT] returns; an exception of the file's own code goes
    through, as a bug.
    """
    file, _, variant = source.partition(":")
    if not Path(file).is_file() or Path(file).suffix != ".py":
        what = (
            f"{file} is not a Python file" if Path(file).exists() and file else f"no file {file!r}"
        )
        raise InputError(f"--config: {what}; give a config file, e.g. configs/NAME.py")
    spec = importlib.util.spec_from_file_location("config_file", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise InputError(
            f"--config: {file} has no function get_config; see {Path(__file__).with_name('config.py')}"
        )
    if variant and not inspect.signature(get_config).parameters:
        raise InputError(f"--config: {file} has no variants; leave :{variant} out")
    config = get_config(*([variant] if variant else []))
    if not isinstance(config, ConfigDict):
        got = type(config).__name__
        raise InputError(
            f"--config: get_config of {file} returns a {got}; let it return a ConfigDict"
        )
    return config


def _override(config: ConfigDict, field: str, text: str) -> None:
    """Set a field, named with dots, to a value of its type."""
    *groups, name = field.split(".")
    holder = config
    for group in groups:
        holder = holder.get(group) if isinstance(holder, ConfigDict) else None
    if not isinstance(holder, ConfigDict) or name not in holder:
        near = difflib.get_close_matches(field, _names(config), n=1)
        mend = (
            f"did you mean {near[0]}?" if near else f"the groups of fields are {', '.join(config)}"
        )
        raise InputError(f"--config.{field}: no such field; {mend}")
    if isinstance(holder[name], ConfigDict):
        raise InputError(
            f"--config.{field}: a group of fields; give one of {', '.join(holder[name])} in it"
        )
    optional = isinstance(dict(holder.items(preserve_field_references=True))[name], FieldReference)
    holder[name] = (
        None if optional and text == "None" else _value(field, text, holder.get_type(name))
    )


def _names(config: ConfigDict, prefix: str = "") -> list[str]:
    """All fields and groups by their dotted names."""
    own = [prefix + name for name in config]
    return own + [
        n
        for k, v in config.items()
        if isinstance(v, ConfigDict)
        for n in _names(v, f"{prefix}{k}.")
    ]


def _value(field: str, text: str, wanted: type) -> Any:
    """The value that a text means for a field of type ``wanted``."""
    if wanted is str:
        return text
    try:
        if wanted in (int, float):
            return wanted(text)
        value = ast.literal_eval(text.capitalize() if wanted is bool else text)
    except (ValueError, SyntaxError):
        value = None
    if not isinstance(value, wanted):
        what = {
            int: "an int",
            bool: "a bool; write True or False",
            tuple: "a tuple; write it with a comma, e.g. (1,), and quote it for the shell",
        }.get(wanted, f"a {wanted.__name__}")
        raise InputError(f"--config.{field}: {text!r} is not {what}")
    return value
