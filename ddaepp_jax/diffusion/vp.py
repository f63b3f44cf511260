"""Variance-preserving noise, x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) epsilon.

The network predicts epsilon. This file has the base class, which the discrete process (``ddpm``)
shares, and the continuous process: the VP SDE (arXiv 2011.13456) as U-ViT (arXiv 2209.12152) trains
on it.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ddaepp_jax.base.choice import choose
from ddaepp_jax.diffusion.process import Network, per_image


class VariancePreserving(abc.ABC):
    """The part of a ``Process`` that follows from alpha_bar.

    Equation numbers are DDPM's (arXiv 2006.11239).
    """

    unit = "t"

    @abc.abstractmethod
    def alpha_bar_at(self, levels: np.ndarray) -> np.ndarray:
        """Returns alpha_bar in float64, for a sampler's grid."""

    @property
    @abc.abstractmethod
    def ends(self) -> tuple[float, float]:
        """The noisiest level, and the cleanest one that a sampler's grid has before 0."""

    @abc.abstractmethod
    def level_at(self, noise_to_signal: np.ndarray) -> np.ndarray:
        """Returns float64 levels, fractions of steps too, from sigma / signal: its inverse."""

    @abc.abstractmethod
    def trained_levels(self, levels: np.ndarray) -> np.ndarray:
        """Returns falling levels between ``ends`` in the type in which training draws them.

        None of them is repeated.
        """

    def noise_to_signal(self, levels: np.ndarray) -> np.ndarray:
        """Returns sigma / signal = sqrt(1 - alpha_bar) / sqrt(alpha_bar) in float64."""
        alpha_bar = self.alpha_bar_at(levels)
        return np.sqrt((1 - alpha_bar) / alpha_bar)

    @abc.abstractmethod
    def coefficients(self, level: Array) -> tuple[Array, Array]:
        """Returns sqrt(alpha_bar) and sqrt(1 - alpha_bar), float32, in the shape of ``level``."""

    @abc.abstractmethod
    def fed_time(self, level: Array) -> Array:
        """Returns the network's time input."""

    def perturb(self, x0: Array, noise: Array, level: Array) -> Array:
        """Returns x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) epsilon (eq. 4)."""
        signal, sigma = (per_image(c, x0) for c in self.coefficients(level))
        return signal * x0 + sigma * noise

    def inputs(self, x_t: Array, level: Array) -> tuple[Array, Array]:
        """Returns the noisy image unchanged, and the time in the form ``time_input``."""
        return x_t, self.fed_time(level)

    def denoised(self, network: Network, x_t: Array, level: Array) -> Array:
        """Returns x0_hat = (x_t - sqrt(1 - alpha_bar_t) eps_theta) / sqrt(alpha_bar_t) (eq. 15)."""
        signal, sigma = (per_image(c, x_t) for c in self.coefficients(level))
        return (x_t - sigma * network(*self.inputs(x_t, level))) / signal

    def loss_terms(self, out: Array, x0: Array, noise: Array, level: Array) -> Array:
        """Returns the (B,) simple loss (eq. 14) of the network's output, mean over the values."""
        del x0, level
        return jnp.square(out - noise).mean(axis=tuple(range(1, out.ndim)))


@dataclasses.dataclass(frozen=True)
class VP(VariancePreserving):
    """The VP SDE in continuous time: beta(t) rises linearly over t in [0, 1].

    Attributes:
      beta_min, beta_max: beta(0) and beta(1), 1000 times the betas of DDPM's steps.
      time_input: a key of ``VP.TIME_INPUTS``.
      last: smallest positive time of a sampler's grid, before the step to 0; U-ViT's is 1e-3.
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
        """Raises a ValueError that begins with the wrong field."""
        choose("time_input", self.time_input, self.TIME_INPUTS)
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(
                f"beta_min, beta_max: {self.beta_min}, {self.beta_max} are not rising and positive"
            )
        if not 0 < self.last < 1:
            raise ValueError(f"last: {self.last} is not between 0 and 1")

    def _integral(self, t: Any) -> Any:
        """Returns the integral of beta over [0, t]; alpha_bar = exp(-integral).

        arXiv 2011.13456, eq. 33.
        """
        return self.beta_min * t + (self.beta_max - self.beta_min) * t * t / 2

    def alpha_bar_at(self, levels: np.ndarray) -> np.ndarray:
        return np.exp(-self._integral(np.asarray(levels, np.float64)))

    @property
    def ends(self) -> tuple[float, float]:
        return 1.0, self.last

    def level_at(self, noise_to_signal: np.ndarray) -> np.ndarray:
        # The integral is -log alpha_bar; t is the root of a quadratic, in the form that does not
        # divide by beta_max - beta_min, which may be 0.
        integral = np.log1p(np.square(noise_to_signal))
        root = np.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral)
        return 2 * integral / (self.beta_min + root)

    def trained_levels(self, levels: np.ndarray) -> np.ndarray:
        return levels.astype(np.float32)

    def coefficients(self, level: Array) -> tuple[Array, Array]:
        integral = self._integral(level)
        return jnp.exp(-integral / 2), jnp.sqrt(-jnp.expm1(-integral))

    def fed_time(self, level: Array) -> Array:
        return self.TIME_INPUTS[self.time_input](level)

    def sample_noise_level(self, rng: Array, n: int) -> Array:
        """Draws (n,) float32, t ~ U[0, 1)."""
        return jax.random.uniform(rng, (n,), jnp.float32)

    def grid(self, steps: int) -> np.ndarray:
        """Returns (steps + 1,) float32: evenly from 1 to ``last``, then 0."""
        if steps < 1:
            raise ValueError(f"{steps} is not a positive number of steps; give 1 or more")
        return np.append(np.linspace(1, self.last, steps), 0).astype(np.float32)

    def loss_levels(self, n: int) -> np.ndarray:
        """Returns (n,) float32, evenly from ``last`` to 1."""
        return np.linspace(self.last, 1, n).round(4).astype(np.float32)

    def probe_levels(self) -> tuple[float, ...]:
        """Returns DDPM's levels divided by T; the noise is the same to a few percent."""
        return 0.001, 0.011, 0.021

    def as_level(self, level: float) -> np.float32:
        if not 0 <= level <= 1:
            raise ValueError(f"{level} is not in 0..1")
        return np.float32(level)
