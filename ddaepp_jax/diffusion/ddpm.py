"""The DDPM process (arXiv 2006.11239): discrete time, linear variances, epsilon prediction.

Equation numbers are the paper's. A noise level is the time step t in 1..T; 0 is the clean image.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ddaepp_jax.base.choice import choose
from ddaepp_jax.diffusion.vp import VariancePreserving


@dataclasses.dataclass(frozen=True)
class DDPM(VariancePreserving):
    """DDPM with linear betas and a network that predicts epsilon.

    Attributes:
      num_steps: T.
      beta_start, beta_end: beta_1 and beta_T.
      time_input: a key of ``DDPM.TIME_INPUTS``.
    """

    num_steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    time_input: str = "t/T"

    # The network's time input at time step t, in the forms of different papers.
    TIME_INPUTS: ClassVar[dict[str, Callable[[Array, int], Array]]] = {
        "t": lambda t, T: t,  # 1..T
        "t/T": lambda t, T: t / T,  # DDAE: (0, 1]
        "999t/T": lambda t, T: 999 * t / T,  # U-ViT: 999 times its continuous time
        "t-1": lambda t, T: t - 1,  # DiT: the index 0..T-1
    }

    def __post_init__(self) -> None:
        """Raises a ValueError that begins with the wrong field."""
        choose("time_input", self.time_input, self.TIME_INPUTS)
        if self.num_steps < 1:
            raise ValueError(f"num_steps: {self.num_steps} is not positive")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"beta_start, beta_end: {self.beta_start}, {self.beta_end} are not rising and "
                "between 0 and 1"
            )

    @functools.cached_property
    def alpha_bar(self) -> np.ndarray:
        """(T + 1,) float64: alpha_bar_t = prod_{s <= t} (1 - beta_s) (eq. 4); alpha_bar_0 = 1."""
        betas = np.linspace(self.beta_start, self.beta_end, self.num_steps)
        return np.concatenate([[1.0], np.cumprod(1 - betas)])

    @functools.cached_property
    def ddae_alpha_bar(self) -> np.ndarray:
        """(T + 1,) float64: the table from which DDAE's DDIM samples.

        It has T + 1 betas, evenly from beta_1 at t = 0 to beta_T at t = T, and is therefore one
        step off the training's table. The sampler's last state is not clean: alpha_bar_0 is
        1 - beta_1.
        """
        return np.cumprod(1 - np.linspace(self.beta_start, self.beta_end, self.num_steps + 1))

    def alpha_bar_at(self, levels: np.ndarray) -> np.ndarray:
        return self.alpha_bar[levels]

    @property
    def ends(self) -> tuple[float, float]:
        return self.num_steps, 1

    def level_at(self, noise_to_signal: np.ndarray) -> np.ndarray:
        """Returns float64 levels, between whole steps linear in log(sigma / signal)."""
        steps = np.arange(1, self.num_steps + 1)
        return np.interp(np.log(noise_to_signal), np.log(self.noise_to_signal(steps)), steps)

    def trained_levels(self, levels: np.ndarray) -> np.ndarray:
        """Returns int32: the nearest whole steps that differ; where two meet, the noisier moves."""
        number = np.arange(len(levels))
        steps = np.round(levels[::-1]).astype(np.int32)
        # Rising by one or more: steps - number must not fall.
        steps = np.maximum.accumulate(steps - number) + number
        return np.minimum(steps, self.num_steps - number[::-1])[::-1].astype(np.int32)

    def coefficients(self, level: Array) -> tuple[Array, Array]:
        # Computed in float64 and rounded once.
        signal = jnp.asarray(np.sqrt(self.alpha_bar), jnp.float32)[level]
        return signal, jnp.asarray(np.sqrt(1 - self.alpha_bar), jnp.float32)[level]

    def fed_time(self, level: Array) -> Array:
        return self.TIME_INPUTS[self.time_input](level.astype(jnp.float32), self.num_steps)

    def sample_noise_level(self, rng: Array, n: int) -> Array:
        """Draws (n,) int32, t ~ U{1..T} (algorithm 1)."""
        return jax.random.randint(rng, (n,), 1, self.num_steps + 1, jnp.int32)

    def grid(self, steps: int) -> np.ndarray:
        """Returns (steps + 1,) int32: .., 1 + 2T/steps, 1 + T/steps, 1, 0, rounded down."""
        if not 1 <= steps <= self.num_steps:
            raise ValueError(f"{steps} is not in 1..{self.num_steps} (diffusion.num_steps)")
        return np.append(1 + np.arange(steps)[::-1] * self.num_steps // steps, 0).astype(np.int32)

    def loss_levels(self, n: int) -> np.ndarray:
        """Returns (n,) int32, evenly from 1 to T."""
        return np.linspace(1, self.num_steps, n).round().astype(np.int32)

    def probe_levels(self) -> tuple[int, ...]:
        """Returns DDAE's levels (arXiv 2303.09769); 1.1 % of the steps is often the best."""
        return 1, 11, 21

    def as_level(self, level: float) -> np.int32:
        if not (0 <= level <= self.num_steps and level == int(level)):
            raise ValueError(f"{level} is not a whole number in 0..{self.num_steps}")
        return np.int32(level)
