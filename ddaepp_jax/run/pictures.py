"""The pictures of a run on latents, which its autoencoder encodes and decodes."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddaepp_jax.autoencoders import stored
from ddaepp_jax.autoencoders.stored import Autoencoder
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.processes import from_first
from ddaepp_jax.data.normalisation import Normalisation

Shape = tuple[int, int, int]


def config_of(config: ConfigDict, source: Mapping[str, Any]) -> ConfigDict:
    """Returns a config whose data are the images that were encoded, in place of their latents."""
    config = config.copy_and_resolve_references()
    for name in ("name", "split", "data_dir"):
        config.data[name] = source[name]
    config.data.size = tuple(source["size"])
    return config


class Pictures:
    """Encodes and decodes the pictures of latents that a network was trained on."""

    def __init__(
        self, name: str, facts: Mapping[str, Any], latent_shape: Shape, mesh: Mesh
    ) -> None:
        """Describes the pictures; the autoencoder is opened where it is needed.

        Args:
          name: name or directory of the autoencoder; "": that of the facts.
          facts: what ``Encoding.to_dict`` returns; empty for converted weights.
          latent_shape: (h, w, C).
          mesh: the devices.
        """
        self._name = name or facts.get("autoencoder", {}).get("name", "")
        self._facts = facts
        self._latent_shape = latent_shape
        self._mesh = mesh

    @property
    def source(self) -> Mapping[str, Any] | None:
        """The images whose latents the network was trained on; None if that is not known."""
        return self._facts.get("source")

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """The autoencoder.

        Raises:
          InputError: it is not on this machine, or is another than that of the latents.
        """
        if not self._name:
            raise InputError(
                "data.autoencoder: this run does not name its autoencoder; set it to a name or a "
                "directory, or do without pictures (decode=False, evals.samples.every=0)"
            )
        if from_first(lambda: stored.hash_of(self._name)) is None:
            raise InputError(
                f"data.autoencoder: {self._name} is not on this machine; convert its weights "
                "(ddaepp_jax.convert), or do without pictures (decode=False, evals.samples.every=0)"
            )
        autoencoder = stored.load(self._name, self._mesh)
        theirs = self._facts.get("autoencoder", {}).get("hash", autoencoder.hash)
        if autoencoder.hash != theirs:
            raise InputError(
                f"data.autoencoder: {self._name} has the hash {autoencoder.hash[:8]}, and the run "
                f"was trained on latents by {theirs[:8]}; give that one"
            )
        return autoencoder

    @property
    def image_shape(self) -> Shape:
        """(H, W, 3) of the pictures."""
        return self.autoencoder.image_shape(self._latent_shape)

    @property
    def _normalisation(self) -> Normalisation:
        if facts := self._facts.get("normalisation"):
            return Normalisation.from_dict(facts)
        if self.autoencoder.normalisation is None:
            raise InputError(
                f"data.autoencoder: {self._name} does not say how latents are normalised, nor does "
                "the run; convert it with --statistics"
            )
        return self.autoencoder.normalisation

    def decode(self, latents: np.ndarray, progress: bool = False) -> np.ndarray:
        """Decodes normalised latents (N, h, w, C) float32 to pictures (N, H, W, 3) uint8."""
        return self.autoencoder.decode(self._normalisation.undo(latents), progress=progress)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Encodes pictures (N, H, W, 3) uint8 to the normalised means (N, h, w, C) float32.

        Raises:
          InputError: the pictures have another size.
        """
        height, width, _ = self.image_shape
        if images.shape[1:3] != (height, width):
            raise InputError(
                f"images: {images.shape[1]}x{images.shape[2]} pixels, and the run is of "
                f"{height}x{width}; give such"
            )
        moments = self.autoencoder.moments(images)
        return self._normalisation.apply(moments[..., : self._latent_shape[-1]])
