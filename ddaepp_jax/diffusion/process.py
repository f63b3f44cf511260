"""The interface of a diffusion process, which training, sampling and probing use."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from jax import Array

from ddaepp_jax.base.errors import InputError

# (network's image input (B, H, W, C), network's time input (B,)) -> (B, H, W, C)
Network = Callable[[Array, Array], Array]
# (noisy image x_t (B, H, W, C), noise level (B,)) -> x0_hat (B, H, W, C)
Denoiser = Callable[[Array, Array], Array]


def per_image(values: Array, like: Array) -> Array:
    """Reshapes (B,) values so that they multiply (B, ...) images."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


class Process(Protocol):
    """A diffusion process: pure functions of a frozen dataclass.

    Images are (B, H, W, C), clean images lie in [-1, 1], and noise is standard normal. Noise levels
    are (B,) int or float in the process's own unit; ``inputs`` turns them into what the network
    takes. The clean image has level 0; in a flow it has level 1, and noise has level 0.

    Attributes:
      unit: name of the level in metrics, "t" or "sigma".
    """

    unit: str

    def sample_noise_level(self, rng: Array, n: int) -> Array:
        """Draws (n,) levels for training."""

    def perturb(self, x0: Array, noise: Array, level: Array) -> Array:
        """Returns the noisy image x_t."""

    def inputs(self, x_t: Array, level: Array) -> tuple[Array, Array]:
        """Returns the network's inputs: x_t, which the process may scale, and (B,) times."""

    def denoised(self, network: Network, x_t: Array, level: Array) -> Array:
        """Returns x0_hat, the network's estimate of the clean image, not clipped."""

    def loss_terms(self, out: Array, x0: Array, noise: Array, level: Array) -> Array:
        """Returns (B,) weighted losses of the network's output, means over an image's values."""

    def grid(self, steps: int) -> np.ndarray:
        """Returns the (steps + 1,) levels of a sampler, from noise to the clean image.

        Raises:
          ValueError: the process has no grid with this number of steps.
        """

    def loss_levels(self, n: int) -> np.ndarray:
        """Returns (n,) rising levels at which the held-out loss is reported."""

    def probe_levels(self) -> tuple[int | float, ...]:
        """Returns the rising levels at which features are probed by default."""

    def as_level(self, level: float) -> np.number:
        """Returns a level in the type that ``perturb`` takes.

        Raises:
          ValueError: the process has no such level.
        """


def level_of(process: Process, level: float | None, field: str) -> np.number:
    """Returns a noise level in the type that the process takes.

    Args:
      level: in the process's unit; None: the middle one of ``process.probe_levels()``.
      field: config field or argument that holds the level.

    Raises:
      InputError: the process has no such level; the message begins with ``field``.
    """
    if level is None:
        levels = process.probe_levels()
        level = levels[len(levels) // 2]
    try:
        return process.as_level(level)
    except ValueError as error:
        raise InputError(f"{field}: {error}") from None
