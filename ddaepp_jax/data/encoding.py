"""The form of stored latents, and what a network gets of them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddaepp_jax.base.streams import named
from ddaepp_jax.data.augment import is_flipped
from ddaepp_jax.data.normalisation import Normalisation

DTYPE = np.dtype(np.float16)
LOWEST, HIGHEST = -30.0, 20.0  # bounds of the logarithm of a variance, as in latent diffusion


@dataclasses.dataclass(frozen=True)
class Encoding:
    """Moments of an image's latents and then of its mirror image's, in records of ``DTYPE``.

    A record is (h, w, 2 M), where M is the number of latent channels C, or twice that where the
    moments have variances: the means, then the logarithms of the variances.

    Attributes:
      latent_shape: (h, w, C).
      has_variances: whether the moments have variances.
      normalisation: how latents are brought to unit deviation.
      origin: the "autoencoder" and the "source" of the latents, as JSON.
    """

    latent_shape: tuple[int, int, int]
    has_variances: bool
    normalisation: Normalisation
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def record_shape(self) -> tuple[int, int, int]:
        """(h, w, 2 M)."""
        height, width, channels = self.latent_shape
        return height, width, 2 * channels * (2 if self.has_variances else 1)

    def to_dict(self) -> dict[str, Any]:
        """Returns what is needed to encode and decode for a network of these latents, as JSON."""
        return {"normalisation": self.normalisation.to_dict(), **self.origin}

    @property
    def nbytes(self) -> int:
        """Size of a record in bytes."""
        return math.prod(self.record_shape) * DTYPE.itemsize

    def record(self, moments: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
        """Joins moments (N, h, w, M) of images and of their mirror images to records."""
        return np.concatenate([moments, mirrored], axis=-1).astype(DTYPE)

    def means(self, records: np.ndarray) -> np.ndarray:
        """Returns the normalised means (N, h, w, C) float32 of the images' latents."""
        return self.normalisation.apply(records[..., : self.latent_shape[-1]])

    def draw(
        self,
        records: jax.Array,
        seed: int,
        step: jax.Array,
        index: jax.Array,
        *,
        flip: bool,
        view: str = "",
    ) -> jax.Array:
        """Draws normalised latents.

        An image's numbers are functions of (seed, step, view, its index).

        Args:
          records: (B, h, w, 2 M).
          seed, step: integers, may be traced.
          index: (B,) int, the images' numbers in the data set.
          flip: whether a fair coin takes the mirror image.
          view: names independent draws.

        Returns:
          (B, h, w, C) float32.
        """
        half = records.shape[-1] // 2
        moments = records[..., :half].astype(jnp.float32)
        if flip:
            mirrored = is_flipped(seed, step, index, f"flip{view}")[:, None, None, None]
            moments = jnp.where(mirrored, records[..., half:].astype(jnp.float32), moments)
        if self.has_variances:
            moments = draw_latents(moments, seed, step, index, f"moments{view}")
        return self.normalisation.apply(moments)


def split_moments(moments: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the means and the clipped logarithms of the variances of moments (.., 2 C)."""
    mean, log_variance = jnp.split(moments, 2, axis=-1)
    return mean, jnp.clip(log_variance, LOWEST, HIGHEST)


def draw_latents(
    moments: jax.Array,
    seed: int | jax.Array,
    step: int | jax.Array,
    index: jax.Array,
    stream: str = "moments",
) -> jax.Array:
    """Draws latents by their moments.

    An image's numbers are functions of (seed, stream, step, its index).

    Args:
      moments: (B, h, w, 2 C) float32: the means, then the logarithms of the variances.
      seed, step: integers, may be traced.
      index: (B,) int, the images' numbers in the data set.
      stream: name of the random stream.

    Returns:
      (B, h, w, C) float32.
    """
    mean, log_variance = split_moments(moments)
    key = jax.random.fold_in(named(jax.random.key(seed), stream), step)
    noise = jax.vmap(
        lambda i: jax.random.normal(jax.random.fold_in(key, i), mean.shape[1:], jnp.float32)
    )(index)
    return mean + jnp.exp(0.5 * log_variance) * noise
