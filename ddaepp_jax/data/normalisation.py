"""Latents brought to zero mean and unit deviation, channel by channel."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import numpy as np

Array = TypeVar("Array", np.ndarray, jax.Array)


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """x = (z - shift) * scale, where z are an autoencoder's latents and x a network's.

    Attributes:
      shift: of each channel; or one number, for all.
      scale: the same.
    """

    shift: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def of(cls, mean: np.ndarray, std: np.ndarray) -> "Normalisation":
        """Normalises latents of these means and deviations (C,)."""
        return cls(tuple(mean.tolist()), tuple((1 / std).tolist()))

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> "Normalisation":
        """Reads what ``to_dict`` gives.

        Raises:
          ValueError: a number is not finite, or a scale not positive.
        """
        shift, scale = (tuple(map(float, facts[name])) for name in ("shift", "scale"))
        if not (np.isfinite([*shift, *scale]).all() and min(scale) > 0):
            raise ValueError("the normalisation has numbers that are not finite or positive")
        return cls(shift, scale)

    def to_dict(self) -> dict[str, list[float]]:
        """Returns the numbers as JSON."""
        return {"shift": list(self.shift), "scale": list(self.scale)}

    def apply(self, z: Array) -> Array:
        """Returns the normalised latents of latents (.., C); NumPy or JAX, float32."""
        shift, scale = self._for(z)
        return (z.astype(np.float32) - shift) * scale

    def undo(self, x: Array) -> Array:
        """Returns the latents of normalised latents (.., C); NumPy or JAX, float32."""
        shift, scale = self._for(x)
        return x.astype(np.float32) / scale + shift

    def _for(self, array: Array) -> tuple[np.ndarray, np.ndarray]:
        shape = (1,) * (array.ndim - 1) + (-1,)
        return tuple(
            np.asarray(each, np.float32).reshape(shape) for each in (self.shift, self.scale)
        )
