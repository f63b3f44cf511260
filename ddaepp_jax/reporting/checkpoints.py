"""Reads facts about a checkpoint from Orbax's JSON files, without Orbax."""

import base64
import json
import math
import operator
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

STATE = ("step", "measured", "format")  # metadata about the state, not about its data


class Checkpoint(NamedTuple):
    """Facts about a checkpoint, from its metadata.

    Attributes:
      parameters: number of the network's parameters.
      mesh: sizes of the device mesh's axes by name.
      written: time at which the checkpoint was finished, in seconds since 1970, UTC.
      data: facts about the training data by name, such as the shape of an image; {} for versions
        that did not record them.
    """

    parameters: int
    mesh: dict[str, int]
    written: float
    data: dict[str, Any]


def read(directory: Path) -> Checkpoint | None:
    """Reads the JSON files that Orbax writes beside the arrays of a checkpoint.

    Returns:
      The facts; None if the checkpoint is being deleted, or if its files do not have the form
      that Orbax writes today.
    """
    try:
        times = json.loads((directory / "_CHECKPOINT_METADATA").read_text())
        leaves = json.loads((directory / "params" / "_METADATA").read_text())
        shardings = json.loads((directory / "params" / "_sharding").read_text())
        data = _data(directory / "meta" / "metadata")
        parameters = 0
        mesh: dict[str, int] = {}
        for key, leaf in leaves["tree_metadata"].items():
            path = re.findall(r"'([^']*)'", key)
            if path[0] == "network":
                encoded = base64.b64encode(".".join(path).encode()).decode()
                sharding = json.loads(shardings[encoded])
                sizes = [operator.index(size) for size in sharding["shape"]]
                mesh = dict(zip(map(str, sharding["axis_names"]), sizes, strict=True))
                shape = leaf["value_metadata"]["write_shape"]  # shape of one device's piece
                parameters += _pieces(sharding["partition_spec"], mesh) * math.prod(shape)
        written = times["commit_timestamp_nsecs"] / 1e9
        time.gmtime(written)  # raises for what is no time
        if min(mesh.values()) < 1:
            raise ValueError("a mesh without devices")
        return Checkpoint(operator.index(parameters), mesh, written, data)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
        return None


def _data(file: Path) -> dict[str, Any]:
    """Returns the metadata that training saves beside a checkpoint, apart from the state's own."""
    facts = dict(json.loads(file.read_text())) if file.exists() else {}
    return {name: fact for name, fact in facts.items() if name not in STATE}


def _pieces(partition_spec: list[Any], mesh: Mapping[str, int]) -> int:
    """Returns the number of pieces that an array is split into."""
    pieces = 1
    for entry in partition_spec:
        axes = [entry] if isinstance(entry, str) else entry or []
        pieces *= math.prod(mesh[axis] for axis in axes)
    return pieces
