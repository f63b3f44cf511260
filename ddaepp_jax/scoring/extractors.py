"""Networks by whose features images are scored: a directory each, known by the hash of its
weights.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import serialization
from jax import Array
from jax.sharding import Mesh

from ddaepp_jax.base import parallel
from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.base.files import replace
from ddaepp_jax.probing.features import Features
from ddaepp_jax.scoring.inception import Inception
from ddaepp_jax.scoring.wide_resnet import WideResNet

MODULES: dict[str, type[nn.Module]] = {"inception": Inception, "classifier": WideResNet}


@dataclasses.dataclass(frozen=True, eq=False)
class Extractor:
    """A network with its weights, on every device of a mesh.

    Attributes:
      kind: a key of ``MODULES``; scores carry it in their names.
      module: ``(params, images) -> {"pool": (B, D), "logits": (B, K)}``, and "spatial" where it has
        such features.
      hash: of the weights, SHA-256: scores of different ones are not comparable.
      made: where the weights come from, and how good they are.
      directory: that it was opened from; statistics of data are kept in it.
      image_shape: (H, W, C) of the images that it takes; None: of any size.
    """

    kind: str
    module: nn.Module
    params: Any
    hash: str
    made: Mapping[str, Any]
    directory: Path
    image_shape: tuple[int, int, int] | None

    @property
    def features(self) -> Features:
        """Features of clean images, in the form that ``evaluation.stored`` takes."""
        return _features(self.module)

    @property
    def suffix(self) -> str:
        """What names of scores and files end in: the resizing, where it isn't the usual one."""
        resizing = getattr(self.module, "resizing", Inception.resizing)
        return "" if resizing == Inception.resizing else f"-{resizing}"

    @property
    def described(self) -> dict[str, Any]:
        """What is written beside every score, and compared where a score is made of two."""
        resizing = {"resizing": self.module.resizing} if isinstance(self.module, Inception) else {}
        return {"kind": self.kind, "hash": self.hash, **resizing}

    def check(self, image_shape: tuple[int, int, int], field: str) -> None:
        """Refuse images that it does not take; ``field`` names them."""
        if self.image_shape not in (None, tuple(image_shape)):
            raise InputError(
                f"{field}: images of {image_shape}; the {self.kind} takes {self.image_shape}"
            )
        if self.kind == "inception" and image_shape[-1] not in (1, 3):
            raise InputError(
                f"{field}: images of {image_shape[-1]} channels; Inception takes grey or RGB ones"
            )


@lru_cache(maxsize=16)
def _features(module: nn.Module) -> Features:
    def features(
        params: Any, x0: Array, keys: Array, draw: Array, level: Array
    ) -> dict[str, Array]:
        del keys, draw, level
        if not isinstance(module, Inception):
            return module.apply({"params": params}, x0)
        grey = x0.shape[-1] == 1
        found = module.apply(
            {"params": params}, ((jnp.repeat(x0, 3, axis=-1) if grey else x0) + 1) / 2
        )
        # The score of 2016 was taken without the last layer's bias, and everybody's since.
        return found | {"logits": found["logits"] - params["fc"]["bias"][None]}

    return features


def hashed(params: Any) -> str:
    """SHA-256 of a tree's names and float32 numbers."""
    digest = hashlib.sha256()
    for path, leaf in sorted(
        jax.tree_util.tree_leaves_with_path(params), key=lambda pair: jax.tree_util.keystr(pair[0])
    ):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf, "<f4").tobytes())
    return digest.hexdigest()


def save(
    directory: Path,
    module: nn.Module,
    params: Any,
    made: Mapping[str, Any],
    image_shape: tuple[int, ...] | None = None,
) -> None:
    """Write an extractor to a directory, ``extractor.json`` last.

    Raises:
      InputError: the directory cannot be written.
    """
    kind = next(kind for kind, described in MODULES.items() if isinstance(module, described))
    fields = {field.name for field in dataclasses.fields(module)} - {"parent", "name", "resizing"}
    facts = {
        "kind": kind,
        "arguments": {name: getattr(module, name) for name in sorted(fields)},
        "image_shape": image_shape,
        "hash": hashed(params),
        "made": dict(made),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        replace(directory / "params.msgpack", serialization.to_bytes(jax.device_get(params)))
        replace(directory / "extractor.json", (json.dumps(facts, indent=1) + "\n").encode())
    except OSError as error:
        raise InputError(
            f"--extractor: cannot write {directory} ({error.strerror}); give another directory"
        ) from None


def there(directory: Path) -> bool:
    """Whether a directory holds an extractor."""
    return (directory / "extractor.json").is_file()


def kind_of(directory: Path) -> str:
    """The kind of the extractor in a directory; "" where it is damaged, which ``load`` says."""
    try:
        return json.loads((directory / "extractor.json").read_text())["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def load(directory: Path, mesh: Mesh, resizing: str | None = None) -> Extractor:
    """An extractor from its directory.

    Args:
      resizing: of Inception's images, "pytorch" or "tensorflow1"; "pytorch" by default.

    Raises:
      InputError: no extractor, a damaged one, or a resizing where none is done.
    """
    if not there(directory):
        raise InputError(f"--extractor: {directory} holds none (no extractor.json)")
    try:
        facts = json.loads((directory / "extractor.json").read_text())
        module = MODULES[facts["kind"]](**facts["arguments"])
        params = serialization.msgpack_restore((directory / "params.msgpack").read_bytes())
        if hashed(params) != facts["hash"]:
            raise ValueError("its weights' hash is another")
        shape = facts["image_shape"] and tuple(facts["image_shape"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--extractor: {directory} is damaged ({first_line(error)}); remove it"
        ) from None
    if resizing is not None:
        if not isinstance(module, Inception):
            raise InputError(
                f"--resizing: {resizing!r}, but a classifier takes images as they are; leave it out"
            )
        module = module.clone(resizing=resizing)
    params = jax.device_put(params, parallel.replicated(mesh))
    return Extractor(facts["kind"], module, params, facts["hash"], facts["made"], directory, shape)
