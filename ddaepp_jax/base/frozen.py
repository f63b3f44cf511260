"""Frozen networks in directories: NAME.json describes a network, params.msgpack has its weights.

A network is identified by the hash of its weights.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import serialization

from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.base.files import replace, write_json
from ddaepp_jax.base.finite import check_finite

PARAMS = "params.msgpack"


def hashed(params: Any) -> str:
    """Returns the SHA-256 of a tree's names and float32 numbers."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in sorted(leaves, key=lambda pair: jax.tree_util.keystr(pair[0])):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf, "<f4").tobytes())
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Shelf:
    """A sort of networks and the form of their directories.

    Attributes:
      noun: what the networks are called; NAME.json has this name, and errors begin with --NAME.
      modules: the networks' classes by their kinds.
      choices: fields of the classes that are no part of a network, but chosen at each use.
      shapes: maps a module and its facts to the shapes of its parameters.
    """

    noun: str
    modules: Mapping[str, type[nn.Module]]
    choices: tuple[str, ...]
    shapes: Callable[[nn.Module, Mapping[str, Any]], Any]

    def file(self, directory: Path) -> Path:
        """Returns the file that describes a directory's network."""
        return directory / f"{self.noun}.json"

    def exists(self, directory: Path) -> bool:
        """Returns whether a directory holds a network."""
        return self.file(directory).is_file()

    def check_free(self, directory: Path) -> None:
        """Checks that a directory holds no network.

        Raises:
          InputError: it holds one.
        """
        if self.exists(directory):
            raise InputError(
                f"--workdir: {directory} holds an {self.noun} already; give another, or remove it"
            )

    def hash(self, directory: Path) -> str:
        """Returns the hash of a directory's network as it was written; no weight is read.

        Raises:
          InputError: the file that describes the network is damaged.
        """
        try:
            return str(json.loads(self.file(directory).read_text())["hash"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(directory, error) from None

    def module(self, facts: Mapping[str, Any]) -> nn.Module:
        """Builds the network of the facts that ``read`` returns."""
        arguments = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in facts["arguments"].items()
        }
        return self.modules[facts["kind"]](**arguments)

    def save(
        self, directory: Path, module: nn.Module, params: Any, facts: Mapping[str, Any]
    ) -> None:
        """Writes a network to a directory, NAME.json last.

        Args:
          directory: directory to write; it may be new.
          module: a network of a class in ``modules``.
          params: its parameters.
          facts: what else is known of the network; JSON.

        Raises:
          InputError: the directory cannot be written.
        """
        kind = next(kind for kind, network in self.modules.items() if isinstance(module, network))
        names = {field.name for field in dataclasses.fields(module)}
        arguments = sorted(names - {"parent", "name", *self.choices})
        content = {
            "kind": kind,
            "arguments": {name: getattr(module, name) for name in arguments},
            **facts,
            "hash": hashed(params),
        }
        try:
            directory.mkdir(parents=True, exist_ok=True)
            replace(directory / PARAMS, serialization.to_bytes(jax.device_get(params)))
            write_json(self.file(directory), content)
        except OSError as error:
            raise InputError(
                f"--{self.noun}: cannot write {directory} ({error.strerror}); "
                "give another directory"
            ) from None

    def read(self, directory: Path) -> tuple[dict[str, Any], Any]:
        """Reads and checks what ``save`` wrote.

        Returns:
          The facts, with "kind", "arguments" and "hash", and the parameters.

        Raises:
          InputError: there is no network, it is damaged, or a weight is not finite.
        """
        if not self.exists(directory):
            raise InputError(
                f"--{self.noun}: {directory} holds no {self.noun} (no {self.noun}.json); "
                "give another directory"
            )
        try:
            facts = json.loads(self.file(directory).read_text())
            module = self.module(facts)
            params = serialization.msgpack_restore((directory / PARAMS).read_bytes())
            if hashed(params) != facts["hash"]:
                raise ValueError("the hash of its weights differs")
            if self.shapes(module, facts) != jax.tree.map(np.shape, params):
                raise ValueError("its weights have other shapes than its arguments give")
            dict(facts["made"])
        except Exception as error:  # Wrong arguments of a network can raise anything.
            raise self._damaged(directory, error) from None
        check_finite(params, f"--{self.noun}: {directory}", "remove it")
        return facts, params

    def _damaged(self, directory: Path, error: Exception) -> InputError:
        return InputError(f"--{self.noun}: {directory} is damaged ({first_line(error)}); remove it")
