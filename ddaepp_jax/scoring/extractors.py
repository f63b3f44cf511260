"""Extractors: networks whose features are used to score images.

An extractor has a directory, and is identified by the hash of its weights.
"""

import dataclasses
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh

from ddaepp_jax.base import parallel
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.frozen import Shelf
from ddaepp_jax.base.processes import from_first
from ddaepp_jax.probing.features import Features
from ddaepp_jax.scoring.inception import SIZE, Inception
from ddaepp_jax.scoring.wide_resnet import WideResNet

MODULES: dict[str, type[nn.Module]] = {"inception": Inception, "classifier": WideResNet}


@dataclasses.dataclass(frozen=True, eq=False)
class Extractor:
    """A network with its weights.

    Attributes:
      kind: a key of ``MODULES``; it is a part of metrics' names.
      module: the network; it maps images to "pool" (B, D), "logits" (B, K), and "spatial" (B, S)
        if it has such features.
      params: its parameters, on every device of ``mesh``.
      mesh: the devices.
      hash: SHA-256 of the weights; scores by different weights can't be compared.
      provenance: where the weights come from, and how good they are.
      directory: directory of its files; statistics of data are kept there too.
      image_shape: (H, W, C) of the images that it takes; None for any size.
    """

    kind: str
    module: nn.Module
    params: Any
    mesh: Mesh
    hash: str
    provenance: Mapping[str, Any]
    directory: Path
    image_shape: tuple[int, int, int] | None

    @property
    def features(self) -> Features:
        """Its features of clean images, in the form that ``probing.stored`` takes."""
        return _features(self.module)

    @property
    def widths(self) -> dict[str, int]:
        """The number of features of each layer."""
        return _shapes(self.module, self.image_shape)[0]

    @property
    def suffix(self) -> str:
        """The end of metrics' and files' names: the resizing, if it isn't the default."""
        resizing = getattr(self.module, "resizing", Inception.resizing)
        return "" if resizing == Inception.resizing else f"-{resizing}"

    @property
    def identity(self) -> dict[str, Any]:
        """The facts that must be equal for two sets of features to be comparable.

        They are written beside every score.
        """
        resizing = {"resizing": self.module.resizing} if isinstance(self.module, Inception) else {}
        return {"kind": self.kind, "hash": self.hash, **resizing}

    def check(self, image_shape: tuple[int, int, int], field: str) -> None:
        """Checks that the extractor takes images of a shape.

        Raises:
          InputError: it does not take them; the message begins with ``field``.
        """
        if self.image_shape not in (None, tuple(image_shape)):
            raise InputError(
                f"{field}: images have shape {image_shape}, but the {self.kind} takes "
                f"{self.image_shape}; give other images or another --extractor"
            )
        if self.kind == "inception" and image_shape[-1] not in (1, 3):
            raise InputError(
                f"{field}: images have {image_shape[-1]} channels, but Inception takes 1 (grey) or "
                "3 (RGB); give other images or another --extractor"
            )


@lru_cache(maxsize=16)
def _features(module: nn.Module) -> Features:
    """Returns the features of a module; equal modules share a function, which is compiled once."""

    def features(
        params: Any, x0: Array, keys: Array, draw: Array, level: Array
    ) -> dict[str, Array]:
        del keys, draw, level  # The images are clean.
        if not isinstance(module, Inception):
            return module.apply({"params": params}, x0)
        rgb = jnp.repeat(x0, 3, axis=-1) if x0.shape[-1] == 1 else x0
        layers = module.apply({"params": params}, (rgb + 1) / 2)
        # The Inception Score of 2016 leaves out the last layer's bias, and all later ones follow.
        return layers | {"logits": layers["logits"] - params["fc"]["bias"][None]}

    return features


@lru_cache(maxsize=16)
def _shapes(
    module: nn.Module, image_shape: tuple[int, int, int] | None
) -> tuple[dict[str, int], Any]:
    """Returns the features of each layer, and the shapes of the parameters; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, *(image_shape or (SIZE, SIZE, 3))), jnp.float32)
    layers, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
    widths = {name: layer.shape[1] for name, layer in layers.items()}
    return widths, jax.tree.map(lambda leaf: leaf.shape, variables["params"])


SHELF = Shelf(
    "extractor",
    MODULES,
    choices=("resizing",),
    shapes=lambda module, facts: _shapes(module, _image_shape(facts))[1],
)


def save(
    directory: Path,
    module: nn.Module,
    params: Any,
    provenance: Mapping[str, Any],
    image_shape: tuple[int, ...] | None = None,
) -> None:
    """Writes an extractor to a directory, ``extractor.json`` last.

    Args:
      directory: directory to write; it may be new.
      module: a network of a class in ``MODULES``.
      params: its parameters.
      provenance: where the weights come from, and how good they are; JSON.
      image_shape: (H, W, C) of the images that it takes; None for any size.

    Raises:
      InputError: the directory can't be written.
    """
    facts = {"image_shape": image_shape, "made": dict(provenance)}
    SHELF.save(directory, module, params, facts)


def exists(directory: Path) -> bool:
    """Returns whether a directory holds an extractor."""
    return SHELF.exists(directory)


def kind_of(directory: Path) -> str:
    """Returns the kind of a directory's extractor; "" if it is damaged, which ``load`` reports."""
    try:
        return json.loads((directory / "extractor.json").read_text())["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def load(directory: Path, mesh: Mesh, resizing: str | None = None) -> Extractor:
    """Loads an extractor from its directory, which only process 0 has to see.

    Args:
      directory: directory that ``save`` wrote.
      mesh: the devices.
      resizing: how Inception's images are resized, "pytorch" or "tensorflow1"; None is "pytorch".

    Raises:
      InputError: there is no extractor, it is damaged, a weight is not finite, or ``resizing`` is
        set for an extractor that isn't Inception.
    """
    facts, params = from_first(lambda: _read(directory, resizing))
    module = SHELF.module(facts)
    if resizing is not None:
        module = module.clone(resizing=resizing)
    return Extractor(
        facts["kind"],
        module,
        parallel.put(params, parallel.replicated(mesh)),
        mesh,
        facts["hash"],
        dict(facts["made"]),
        directory,
        _image_shape(facts),
    )


def _image_shape(facts: Mapping[str, Any]) -> tuple[int, int, int] | None:
    return facts["image_shape"] and tuple(facts["image_shape"])


def _read(directory: Path, resizing: str | None) -> tuple[dict[str, Any], Any]:
    """Reads the facts and the parameters, and checks that the network takes the resizing."""
    facts, params = SHELF.read(directory)
    if resizing is not None and facts["kind"] != "inception":
        raise InputError(
            f"--resizing: {resizing!r}, but a classifier takes images as they are; leave it out"
        )
    return facts, params
