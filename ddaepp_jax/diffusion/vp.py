"""Variance-preserving noise, x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) epsilon, with a
network for epsilon.

The base that the discrete process (``ddpm``) shares, and the continuous one: the VP SDE (arXiv
2011.13456), as U-ViT (arXiv 2209.12152) trains on it.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ddaepp_jax.diffusion.process import Network, per_image


class VariancePreserving(abc.ABC):
    """What follows from alpha_bar alone; see ``Process``. Equation numbers are DDPM's (arXiv
    2006.11239).
    """

    unit = "t"

    @abc.abstractmethod
    def alpha_bar_at(self, levels: np.ndarray) -> np.ndarray:
        """alpha_bar in float64, for a sampler's grid."""

    @abc.abstractmethod
    def coefficients(self, level: Array) -> tuple[Array, Array]:
        """sqrt(alpha_bar) and sqrt(1 - alpha_bar) in float32, of the shape of ``level``."""

    @abc.abstractmethod
    def fed_time(self, level: Array) -> Array:
        """The time as the network is fed it."""

    def perturb(self, x0: Array, noise: Array, level: Array) -> Array:
        """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) epsilon (eq. 4); images (B, H, W, C),
        ``level`` (B,).
        """
        signal, sigma = (per_image(c, x0) for c in self.coefficients(level))
        return signal * x0 + sigma * noise

    def inputs(self, x_t: Array, level: Array) -> tuple[Array, Array]:
        """What the network is fed: the noisy image as it is, and the time in the form
        ``time_input``.
        """
        return x_t, self.fed_time(level)

    def denoised(self, network: Network, x_t: Array, level: Array) -> Array:
        """x0_hat = (x_t - sqrt(1 - alpha_bar_t) eps_theta) / sqrt(alpha_bar_t) (eq. 15), not
        clipped.
        """
        signal, sigma = (per_image(c, x_t) for c in self.coefficients(level))
        return (x_t - sigma * network(*self.inputs(x_t, level))) / signal

    def loss_terms(self, out: Array, x0: Array, noise: Array, level: Array) -> Array:
        """(B,) the simple loss (eq. 14), mean over an image's values, of the network's output
        ``out``.
        """
        del x0, level
        return jnp.square(out - noise).mean(axis=tuple(range(1, out.ndim)))


@dataclasses.dataclass(frozen=True)
class VP(VariancePreserving):
    """The VP SDE in continuous time: beta(t) rises linearly over t in [0, 1].

    Attributes:
      beta_min, beta_max: beta(0) and beta(1); a thousandth of each is a step's beta of DDPM.
      time_input: a key of ``VP.TIME_INPUTS``.
      last: the smallest positive time of a sampler's grid (U-ViT's 1e-3); from there it steps to 0.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    time_input: str = "999t"
    last: float = 1e-3

    TIME_INPUTS: ClassVar[dict[str, Callable[[Array], Array]]] = {
        "t": lambda t: t,
        "999t": lambda t: 999 * t,  # U-ViT
    }

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(
                f"beta_min, beta_max: {self.beta_min}, {self.beta_max} do not rise above 0"
            )
        if not 0 < self.last < 1:
            raise ValueError(f"last: {self.last} is not between 0 and 1")

    def _integral(self, t: Any) -> Any:
        """The integral of beta over [0, t]; alpha_bar is exp of its negative (arXiv 2011.13456, eq.
        33).
        """
        return self.beta_min * t + (self.beta_max - self.beta_min) * t * t / 2

    def alpha_bar_at(self, levels: np.ndarray) -> np.ndarray:
        return np.exp(-self._integral(np.asarray(levels, np.float64)))

    def coefficients(self, level: Array) -> tuple[Array, Array]:
        integral = self._integral(level)
        return jnp.exp(-integral / 2), jnp.sqrt(-jnp.expm1(-integral))

    def fed_time(self, level: Array) -> Array:
        return self.TIME_INPUTS[self.time_input](level)

    def sample_noise_level(self, rng: Array, n: int) -> Array:
        """(n,) float32, t ~ U[0, 1)."""
        return jax.random.uniform(rng, (n,))

    def grid(self, steps: int) -> np.ndarray:
        """(steps + 1,) from 1 to ``last`` evenly, then 0."""
        if steps < 1:
            raise ValueError(f"{steps} is not positive")
        return np.append(np.linspace(1, self.last, steps), 0).astype(np.float32)

    def loss_levels(self, n: int) -> np.ndarray:
        """(n,) float32, from ``last`` to 1 evenly."""
        return np.linspace(self.last, 1, n).round(4).astype(np.float32)

    def probe_levels(self) -> tuple[float, ...]:
        """DDPM's grid as fractions: the noise is the same to a few percent."""
        return 0.001, 0.011, 0.021

    def as_level(self, level: float) -> np.float32:
        if not 0 <= level <= 1:
            raise ValueError(f"{level} is not in 0..1")
        return np.float32(level)
