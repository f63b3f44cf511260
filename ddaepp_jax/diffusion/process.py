"""What a diffusion process is: the contract that training, sampling and probing rely on."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from jax import Array

# (noisy image as fed (B, H, W, C), time as fed (B,)) -> (B, H, W, C)
Network = Callable[[Array, Array], Array]
# (noisy image x_t (B, H, W, C), noise level (B,)) -> x0_hat (B, H, W, C)
Denoiser = Callable[[Array, Array], Array]


def per_image(values: Array, like: Array) -> Array:
    """(B,) values shaped to multiply (B, ...) images."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


class Process(Protocol):
    """Pure functions of a frozen dataclass; images are (B, H, W, C), data in [-1, 1], noise
    standard normal.

    A noise level is always in the process's own unit, (B,) int or float; what the network is fed
    for it is a matter of ``inputs``. The clean image is at level 0; of flows at level 1, and 0 is
    the noise.

    Attributes:
      unit: the level's name in metrics: "t" or "sigma".
    """

    unit: str

    def sample_noise_level(self, rng: Array, n: int) -> Array:
        """(n,) levels of training."""

    def perturb(self, x0: Array, noise: Array, level: Array) -> Array:
        """The noisy image x_t."""

    def inputs(self, x_t: Array, level: Array) -> tuple[Array, Array]:
        """What the network is fed: the image, scaled where the process says so, and the time
        (B,).
        """

    def denoised(self, network: Network, x_t: Array, level: Array) -> Array:
        """x0_hat, the network's estimate of the clean image; not clipped."""

    def loss_terms(self, out: Array, x0: Array, noise: Array, level: Array) -> Array:
        """(B,) losses of the network's output ``out``, weighted, mean over an image's values."""

    def grid(self, steps: int) -> np.ndarray:
        """(steps + 1,) levels of a sampler, from noise to the clean image; ValueError where there
        is no such grid.
        """

    def loss_levels(self, n: int) -> np.ndarray:
        """(n,) rising levels at which held-out loss is reported."""

    def probe_levels(self) -> tuple[int | float, ...]:
        """Levels of the linear-probe grid, rising."""

    def as_level(self, level: float) -> np.number:
        """A level given from outside in the type that ``perturb`` takes; ValueError where there is
        no such level.
        """
