"""Autoencoders with their weights, in directories."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh

from ddaepp_jax.autoencoders.kl import AutoencoderKL
from ddaepp_jax.autoencoders.tiling import tiled
from ddaepp_jax.autoencoders.tiny import TinyAutoencoder
from ddaepp_jax.base import parallel
from ddaepp_jax.base.dispatch import InFlight, progress_bar
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.frozen import Shelf
from ddaepp_jax.base.paths import local_path, user_cache
from ddaepp_jax.base.processes import from_first
from ddaepp_jax.data.augment import to_float, to_uint8
from ddaepp_jax.data.normalisation import Normalisation

MODULES: dict[str, type[nn.Module]] = {"kl": AutoencoderKL, "tiny": TinyAutoencoder}
TILE = 512  # pixels of a tile's side

Shape = tuple[int, int, int]


def _shapes(module: nn.Module, facts: Mapping[str, Any]) -> Any:
    del facts
    channels = getattr(module, "image_channels", 3)
    images = jax.ShapeDtypeStruct((1, module.factor, module.factor, channels), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    return jax.tree.map(lambda leaf: leaf.shape, params)


SHELF = Shelf("autoencoder", MODULES, choices=("dtype",), shapes=_shapes)


@dataclasses.dataclass(frozen=True, eq=False)
class Autoencoder:
    """A network with its weights. Images are uint8, (N, H, W, 3); grey ones are taken too.

    Attributes:
      kind: a key of ``MODULES``.
      module: the network.
      params: its parameters, on every device of ``mesh``.
      mesh: the devices.
      hash: SHA-256 of the weights; a latent belongs to the weights that it was encoded by.
      normalisation: how latents are brought to unit deviation, where the weights say so; None: by
        the statistics of the data.
      provenance: where the weights come from, and how good they are.
    """

    kind: str
    module: nn.Module
    params: Any
    mesh: Mesh
    hash: str
    normalisation: Normalisation | None
    provenance: Mapping[str, Any]

    @property
    def has_variances(self) -> bool:
        """Whether moments have the logarithms of variances beside the means."""
        return isinstance(self.module, AutoencoderKL)

    @property
    def factor(self) -> int:
        """Pixels of a latent's side."""
        return self.module.factor

    def latent_shape(self, image_shape: Shape) -> Shape:
        """Returns (h, w, C) of the latents of images (H, W, C).

        Raises:
          InputError: the factor does not divide the images' height and width.
        """
        height, width, channels = image_shape
        if height % self.factor or width % self.factor:
            raise InputError(
                f"--size: images of {height}x{width} have sides that the autoencoder's factor, "
                f"{self.factor}, does not divide; give another size"
            )
        if channels not in (1, 3):
            raise InputError(f"--data: images have {channels} channels, not 1 or 3; give others")
        return height // self.factor, width // self.factor, self.module.latent_channels

    def image_shape(self, latent_shape: Shape) -> Shape:
        """Returns (H, W, 3) of the images that latents (h, w, C) decode to."""
        return latent_shape[0] * self.factor, latent_shape[1] * self.factor, 3

    def moments(self, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """Encodes images.

        Args:
          images: (N, H, W, C) uint8.
          batch_size: images that are encoded at once.

        Returns:
          (N, h, w, M) float32: the latents' means and then, where ``has_variances``, the logarithms
          of their variances.
        """
        self.latent_shape(images.shape[1:])
        return self._batches(_encode(self.module), images, batch_size)

    def decode(
        self, latents: np.ndarray, batch_size: int = 64, progress: bool = False
    ) -> np.ndarray:
        """Decodes latents.

        Args:
          latents: (N, h, w, C) float32, not normalised.
          batch_size: latents that are decoded at once.
          progress: show a progress bar.

        Returns:
          (N, H, W, 3) uint8.
        """
        return self._batches(_decode(self.module), latents, batch_size, "decoding" * progress)

    def _batches(
        self, apply: Callable[..., Array], x: np.ndarray, batch_size: int, title: str = ""
    ) -> np.ndarray:
        """Applies a function to all rows; all processes call it with the same rows."""
        pieces = []
        in_flight = InFlight[tuple[Array, int]]()

        def keep(finished: list[tuple[Array, int]]) -> None:
            for piece, count in finished:
                pieces.append(np.asarray(piece)[:count])
                bar.update(count)

        with progress_bar(len(x), "image", title, disable=not title) as bar:
            for rows, count in parallel.batches(len(x), batch_size, self.mesh):
                (batch,) = parallel.place(self.mesh, x[rows])
                keep(in_flight.add((parallel.on_host(apply(self.params, batch)), count)))
            keep(in_flight.finish())
        return np.concatenate(pieces)


@lru_cache(maxsize=16)
def _encode(module: nn.Module) -> Callable[[Any, Array], Array]:
    """Returns ``(params, uint8 images) -> moments``, compiled."""

    def encode(params: Any, images: Array) -> Array:
        x = to_float(images)
        if x.shape[-1] == 1:
            x = jnp.repeat(x, 3, axis=-1)
        if isinstance(module, TinyAutoencoder):
            x = (x + 1) / 2

        def apply(x: Array) -> Array:
            return module.apply({"params": params}, x, method="encode")

        return tiled(apply, x, TILE, 1 / module.factor).astype(jnp.float32)

    return jax.jit(encode)


@lru_cache(maxsize=16)
def _decode(module: nn.Module) -> Callable[[Any, Array], Array]:
    """Returns ``(params, latents) -> uint8 images``, compiled."""

    def decode(params: Any, latents: Array) -> Array:
        def apply(z: Array) -> Array:
            return module.apply({"params": params}, z, method="decode")

        x = tiled(apply, latents, TILE // module.factor, module.factor)
        return to_uint8(2 * x - 1 if isinstance(module, TinyAutoencoder) else x)

    return jax.jit(decode)


def save(
    directory: Path,
    module: nn.Module,
    params: Any,
    normalisation: Normalisation | None,
    provenance: Mapping[str, Any],
) -> None:
    """Writes an autoencoder to a directory, ``autoencoder.json`` last.

    The arguments are the fields of ``Autoencoder``.

    Raises:
      InputError: the directory cannot be written.
    """
    facts = {
        "normalisation": None if normalisation is None else normalisation.to_dict(),
        "made": dict(provenance),
    }
    SHELF.save(directory, module, params, facts)


def load(name: str, mesh: Mesh, dtype: Any = jnp.float32) -> Autoencoder:
    """Loads an autoencoder, which only process 0 has to see.

    Args:
      name: its directory, or the name of one in the package's own folder.
      mesh: the devices.
      dtype: dtype of the computation.

    Raises:
      InputError: there is no autoencoder, it is damaged, or a weight is not finite.
    """
    directory = place(name)
    facts, params = from_first(lambda: SHELF.read(directory))
    normalisation = facts.get("normalisation")
    return Autoencoder(
        facts["kind"],
        SHELF.module(facts).clone(dtype=dtype),
        parallel.put(params, parallel.replicated(mesh)),
        mesh,
        facts["hash"],
        None if normalisation is None else Normalisation.from_dict(normalisation),
        dict(facts["made"]),
    )


def hash_of(name: str) -> str | None:
    """Returns the hash of an autoencoder's weights; None where it is not on this machine."""
    directory = place(name)
    return SHELF.hash(directory) if SHELF.exists(directory) else None


def home(name: str) -> Path:
    """Returns the directory where the package keeps an autoencoder."""
    return user_cache() / "autoencoders" / name


def place(name: str) -> Path:
    """Returns the directory of an autoencoder.

    Args:
      name: its directory, or the name of one in the package's own folder.
    """
    directory = local_path(name, "autoencoder")
    if "/" not in name and not directory.exists():
        return home(name)
    return directory
