"""Settings of a probe, and the network that is probed."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from ddaepp_jax.base.choice import choose
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.build import layers as layers_of
from ddaepp_jax.data.augment import crop_pad
from ddaepp_jax.diffusion.process import Process, level_of
from ddaepp_jax.probing.protocols import PROTOCOLS, Protocol


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """A network to be probed.

    Attributes:
      network: the network, a Flax module.
      process: its diffusion process.
      params: its parameters, on every device.
      mesh: the devices.
      image_shape: (H, W, C).
      flip: whether its training mirrors images.
      run: name of the run, for the results.
      weights: which of the run's weights ``params`` are: "step", the average, e.g. "decay", and
        "weights", a hash of them; a probe of other weights is not resumed.
      latents: whether it works on latents, which are neither cropped nor mirrored.
    """

    network: nn.Module
    process: Process
    params: Any
    mesh: Mesh
    image_shape: tuple[int, int, int]
    flip: bool
    run: str
    weights: Mapping[str, Any]
    latents: bool = False


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a network is probed. A probe is resumed if all fields but ``levels`` are the same.

    Attributes:
      name: name of the protocol.
      protocol: how heads are trained.
      layers: names of the network's features.
      levels: noise levels in the process's unit.
      held_out: share of the training split that chooses; if it is 0, the test split chooses.
      knn: number of nearest neighbours; 0: none.
      flip: whether augmentation mirrors images.
      pad: border in pixels out of which augmentation crops images.
      seed: seed of noise, crops and order.
    """

    name: str
    protocol: Protocol
    layers: tuple[str, ...]
    levels: tuple[int | float, ...]
    held_out: float
    knn: int
    flip: bool
    pad: int
    seed: int = 0

    def __post_init__(self) -> None:
        protocol = self.protocol
        rates = protocol.learning_rates
        for field, value, right, text in (
            ("epochs", protocol.epochs, protocol.epochs > 0, "positive"),
            ("batch_size", protocol.batch_size, protocol.batch_size > 0, "positive"),
            (
                "learning_rates",
                rates,
                bool(rates) and all(0 < rate < math.inf for rate in rates),
                "positive numbers",
            ),
            ("l2", protocol.l2, 0 <= protocol.l2 < math.inf, "0 or positive"),
            ("held_out", self.held_out, 0 <= self.held_out < 1, "in [0, 1)"),
            ("knn", self.knn, self.knn >= 0, "0 (none) or positive"),
            ("seed", self.seed, 0 <= self.seed < 2**32, "in 0..2**32-1"),
        ):
            if not right:
                raise InputError(f"{field}: {value} is not {text}")

    @property
    def tag(self) -> str:
        """The protocol in metrics' names, e.g. cached-15ep or crop-flip-15ep."""
        if not self.protocol.fresh:
            return f"cached-{self.protocol.epochs}ep"
        augmentations = [name for name, on in (("crop", self.pad), ("flip", self.flip)) if on]
        return f"{'-'.join(augmentations) or 'fresh'}-{self.protocol.epochs}ep"

    @property
    def identity(self) -> dict[str, Any]:
        """The fields that must be equal for a probe to be resumed, as its JSON holds them."""
        fresh = self.protocol.fresh  # Otherwise heads see no augmentation.
        return {
            **dataclasses.asdict(self.protocol),
            "name": self.name,
            "layers": self.layers,
            "held_out": self.held_out,
            "knn": self.knn,
            "flip": fresh and self.flip,
            "pad": self.pad if fresh else 0,
            "seed": self.seed,
        }


def settings(
    trained: TrainedNetwork,
    defaults: Mapping[str, Any],
    protocol: str | None = None,
    *,
    layers: Sequence[str] = (),
    levels: Sequence[float] = (),
    held_out: float | None = None,
    knn: int | None = None,
    seed: int = 0,
    **overrides: Any,
) -> Settings:
    """Completes the settings of a probe.

    Args:
      trained: the network.
      defaults: "protocol", "held_out", "knn", and "epochs" of that protocol (None: its own).
      protocol: a name of ``PROTOCOLS``.
      layers: names of the network's features; () takes all that differ, and a name given twice
        counts once.
      levels: noise levels in the process's unit; () takes the process's grid.
      held_out: see ``Settings``.
      knn: see ``Settings``.
      seed: see ``Settings``.
      overrides: fields of ``Protocol``; None is the protocol's own value.

    Raises:
      InputError: a setting is wrong, or doesn't fit the network.
    """
    name = defaults["protocol"] if protocol is None else protocol
    if name == defaults["protocol"] and overrides.get("epochs") is None:
        overrides["epochs"] = defaults["epochs"]
    chosen = dataclasses.replace(
        choose("protocol", name, PROTOCOLS),
        **{field: value for field, value in overrides.items() if value is not None},
    )
    present = layers_of(trained.network, trained.image_shape)
    for layer in layers:
        choose("layers", layer, present)
    levels = levels or trained.process.probe_levels()
    completed = Settings(
        name=name,
        protocol=chosen,
        layers=tuple(dict.fromkeys(layers)) or _distinct(trained.network, present),
        levels=tuple(dict.fromkeys(_plain(level_of(trained.process, x, "levels")) for x in levels)),
        held_out=defaults["held_out"] if held_out is None else held_out,
        knn=defaults["knn"] if knn is None else knn,
        flip=trained.flip and not trained.latents,
        pad=0 if trained.latents else crop_pad(trained.image_shape),
        seed=seed,
    )
    devices = trained.mesh.size
    if chosen.fresh and chosen.batch_size % devices:
        raise InputError(
            f"batch_size: {chosen.batch_size} is not a multiple of {devices}, the number of devices"
        )
    return completed


def _distinct(network: nn.Module, layers: Sequence[str]) -> tuple[str, ...]:
    """Leaves out "bottleneck" where it equals a block's mean feature.

    Only a U-ViT with ``pool="cls"`` keeps it.
    """
    repeated = getattr(network, "pool", "mean") == "mean"
    return tuple(layer for layer in layers if not (repeated and layer == "bottleneck"))


def _plain(level: np.number) -> int | float:
    """Returns the Python number that prints as the level: 0.05995, not 0.05995000153779984."""
    return json.loads(str(level))
