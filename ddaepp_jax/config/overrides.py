"""The config of a command line: ``--config=FILE[:VARIANT] --config.FIELD=VALUE ..``."""

import ast
import contextlib
import importlib.util
import inspect
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FieldReference

from ddaepp_jax.base.choice import did_you_mean
from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.base.paths import local_path
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


def _split(source: str) -> tuple[str, str]:
    """Splits FILE[:VARIANT] at the last colon, unless a file of the whole name exists."""
    if Path(source).expanduser().is_file() or ":" not in source:
        return source, ""
    file, _, variant = source.rpartition(":")
    return file, variant


def config_name(source: str) -> str:
    """Returns the name of the config FILE[:VARIANT], after which its runs are called."""
    return Path(_split(source)[0]).stem


def _read_file(source: str) -> ConfigDict:
    """Returns the config of FILE[:VARIANT].

    An error of the file's own code becomes an InputError that names the line.
    """
    file, variant = _split(source)
    if not file:
        raise InputError("--config: no file ''; give a config file, e.g. configs/NAME.py")
    path = local_path(file, "--config")
    if not path.is_file() or path.suffix != ".py":
        what = f"{file} is not a Python file" if path.exists() else f"no file {file!r}"
        raise InputError(f"--config: {what}; give a config file, e.g. configs/NAME.py")
    spec = importlib.util.spec_from_file_location("config_file", path)
    module = importlib.util.module_from_spec(spec)
    with _own_errors(path):
        spec.loader.exec_module(module)
    function = getattr(module, "get_config", None)
    if not callable(function):
        raise InputError(
            f"--config: {file} has no function get_config; see configs/uvit_digits.py for one"
        )
    if variant and not inspect.signature(function).parameters:
        raise InputError(f"--config: {file} has no variants; leave :{variant} out")
    with _own_errors(path):
        config = function(variant) if variant else function()
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"--config: get_config of {file} returns a {type(config).__name__}; "
            "let it return a ConfigDict"
        )
    return config


@contextlib.contextmanager
def _own_errors(file: Path) -> Iterator[None]:
    """Turns an error of a config file's own code into an InputError that names its line."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        places = [(frame.filename, frame.lineno) for frame in frames]
        if isinstance(error, SyntaxError):
            places.append((error.filename or "", error.lineno))
        lines = [line for name, line in places if Path(name).resolve() == file.resolve()]
        where = f"{file}, line {lines[-1]}" if lines else f"{file}"
        reason = first_line(error)
        raise InputError(
            f"--config: {where} raises {type(error).__name__} ({reason}); mend the file"
        ) from error


def _override(config: ConfigDict, field: str, text: str) -> None:
    """Sets a field, named with dots, to the value of a text."""
    *groups, name = field.split(".")
    holder = config
    for group in groups:
        holder = holder.get(group) if isinstance(holder, ConfigDict) else None
    if not isinstance(holder, ConfigDict) or name not in holder:
        groups_of_fields = f"; the groups of fields are {', '.join(config)}"
        mend = did_you_mean(field, _names(config)) or groups_of_fields
        raise InputError(f"--config.{field}: no such field{mend}")
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
