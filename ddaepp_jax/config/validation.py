"""Checks a config before anything is built from it, and reports all wrong fields in one error.

Fields that must fit the data or the devices are checked by ``ddaepp_jax.build``.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, get_type_hints

import pydantic
from ml_collections import ConfigDict

from ddaepp_jax.base.errors import InputError, shown
from ddaepp_jax.config import rules, schema

# No value is converted to another type, except that a whole number may stand for a float. NaN and
# infinity are no values.
STRICT = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def validate(config: ConfigDict) -> None:
    """Checks the fields of a config, each by itself and together.

    Raises:
      InputError: one line "field: value is wrong; mend". If several fields are wrong, there is a
        line for each, after a line with their number.
    """
    refuse(mistakes(config))


def mistakes(config: ConfigDict) -> list[str]:
    """Returns a line for each wrong field; a rule waits until its groups' fields are right."""
    wrong = wrong_fields(config)
    lines = list(wrong.values())
    for rule, groups in rules.RULES.items():
        if groups.isdisjoint(field.partition(".")[0] for field in wrong):
            lines += rule(config)
    return list(dict.fromkeys(lines))


def refuse(lines: Sequence[str]) -> None:
    """Raises an InputError of the lines, if there are any."""
    if len(lines) > 1:
        lines = [f"{len(lines)} fields of the config are wrong:", *lines]
    if lines:
        raise InputError("\n".join(lines))


def wrong_fields(config: ConfigDict) -> dict[str, str]:
    """Returns a line for each field whose value is wrong by itself, by the field's dotted name."""
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"config: {shown(config)} is not a config; give one of ddaepp_jax.config.get_config()"
        )
    network = _chosen(config, "model", schema.NETWORKS)
    process = _chosen(config, "diffusion", schema.PROCESSES)
    model = _model(schema.config(network, process))
    values = config.to_dict()
    try:
        model.model_validate(values)
    except pydantic.ValidationError as error:
        lines = {}
        for mistake in error.errors(include_url=False):
            path = [part for part in mistake["loc"] if isinstance(part, str)]
            lines.setdefault(".".join(path), _line(model, path, values, mistake))
        for group in ("model", "diffusion"):
            _join_other_names(lines, group, values[group])
        return lines
    return {}


def _join_other_names(lines: dict[str, str], group: str, fields: dict[str, Any]) -> None:
    """Replaces lines on missing and unknown fields by one, where ``name`` alone was changed."""
    others = [name for name, line in lines.items() if _is_name_mistake(name, line, group)]
    if len(others) > 1:
        for name in others:
            del lines[name]
        name = fields["name"]
        lines[f"{group}.name"] = (
            f"{group}.name: {name!r} has other fields than this config's {group}; change it in a "
            f"config file, config.{group} = schema.{name}(..)"
        )


def _is_name_mistake(name: str, line: str, group: str) -> bool:
    wrong = line.removeprefix(f"{name}: ")
    return name.startswith(f"{group}.") and wrong.startswith(("missing;", "no such field;"))


def _chosen(config: ConfigDict, group: str, choices: dict[str, type]) -> type:
    """Returns the group that the field ``name`` selects.

    For an unknown name, it is a group that checks the name alone.
    """
    fields = config.get(group, {})
    if (name := fields.get("name")) in choices:
        return choices[name]
    others = [(field, Any, None) for field in fields if field != "name"]
    return schema.make_group(group, [("name", Literal[*choices], ""), *others])


@functools.cache
def _model(group: type) -> type[pydantic.BaseModel]:
    """Returns the pydantic model of a group, in which every field is required."""
    hints = get_type_hints(group, include_extras=True)
    fields = {}
    for name, hint in hints.items():
        kind = _model(hint) if dataclasses.is_dataclass(hint) else hint
        fields[name] = (kind, ...)
    return pydantic.create_model(group.__name__, __config__=STRICT, **fields)


def _line(model: type[pydantic.BaseModel], path: list[str], values: Any, mistake: Any) -> str:
    """Returns "field: value is wrong; it should be ..." for one of pydantic's mistakes.

    Args:
      model: the pydantic model of the whole config.
      path: the names of the field's groups, and its own.
      values: the config.
      mistake: an entry of ``ValidationError.errors``.
    """
    field = ".".join(path)
    group = ".".join(path[:-1])
    for name in path[:-1]:
        model = model.model_fields[name].annotation
        values = values[name]
    in_tuple = len(path) < len(mistake["loc"])
    if not in_tuple and mistake["type"] in ("missing", "extra_forbidden"):
        wrong = "missing" if mistake["type"] == "missing" else "no such field"
        names = ", ".join(sorted(model.model_fields))
        return f"{field}: {wrong}; the fields of {group or 'a config'} are {names}"
    info = model.model_fields[path[-1]]
    mend = mistake["msg"].replace("Input should be ", "")
    if in_tuple:
        mend = f"a {info.annotation}"
    return f"{field}: {values[path[-1]]!r} is wrong; it should be {info.description or mend}"
