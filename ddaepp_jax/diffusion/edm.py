"""The EDM process (arXiv 2206.00364): added noise of standard deviation sigma, and preconditioning.

Equation and table numbers are the paper's. A noise level is sigma, in units of the data, which lie
in [-1, 1].
"""

import dataclasses
from collections.abc import Callable
from statistics import NormalDist
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ddaepp_jax.base.choice import choose
from ddaepp_jax.diffusion.process import Network, per_image


@dataclasses.dataclass(frozen=True)
class EDM:
    """EDM; see ``Process`` for the methods.

    Attributes:
      sigma_data: standard deviation of the data.
      p_mean, p_std: training draws ln(sigma) ~ N(p_mean, p_std^2).
      sigma_min, sigma_max, rho: a sampler's grid (eq. 5).
      time_input: a key of ``EDM.TIME_INPUTS``.
    """

    sigma_data: float = 0.5
    p_mean: float = -1.2
    p_std: float = 1.2
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    time_input: str = "ln(sigma)/4"

    unit = "sigma"
    TIME_INPUTS: ClassVar[dict[str, Callable[[Array], Array]]] = {
        "ln(sigma)/4": lambda sigma: jnp.log(sigma) / 4  # c_noise (table 1)
    }

    def __post_init__(self) -> None:
        """Raises a ValueError that begins with the wrong field."""
        choose("time_input", self.time_input, self.TIME_INPUTS)
        for name in ("sigma_data", "p_std", "rho"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)} is not positive")
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sigma_min, sigma_max: {self.sigma_min}, {self.sigma_max} are not rising and "
                "positive"
            )

    def preconditioning(self, sigma: Array) -> tuple[Array, Array, Array]:
        """Returns c_skip, c_out and c_in (table 1), in the shape of ``sigma``."""
        variance = jnp.square(sigma) + self.sigma_data**2
        c_skip = self.sigma_data**2 / variance
        c_out = sigma * self.sigma_data / jnp.sqrt(variance)
        c_in = 1 / jnp.sqrt(variance)
        return c_skip, c_out, c_in

    def loss_weight(self, sigma: Array) -> Array:
        """Returns lambda(sigma) (table 1); the loss of F then has unit weight at every sigma."""
        return (jnp.square(sigma) + self.sigma_data**2) / jnp.square(sigma * self.sigma_data)

    def sample_noise_level(self, rng: Array, n: int) -> Array:
        """Draws (n,) float32, ln(sigma) ~ N(p_mean, p_std^2) (table 1)."""
        return jnp.exp(self.p_mean + self.p_std * jax.random.normal(rng, (n,), jnp.float32))

    def perturb(self, x0: Array, noise: Array, level: Array) -> Array:
        """Returns x = x_0 + sigma n."""
        return x0 + per_image(level, x0) * noise

    def inputs(self, x_t: Array, level: Array) -> tuple[Array, Array]:
        """Returns c_in x, and c_noise in the form ``time_input``."""
        _, _, c_in = self.preconditioning(level)
        return per_image(c_in, x_t) * x_t, self.TIME_INPUTS[self.time_input](level)

    def _denoised(self, out: Array, x_t: Array, level: Array) -> Array:
        c_skip, c_out, _ = (per_image(c, x_t) for c in self.preconditioning(level))
        return c_skip * x_t + c_out * out

    def denoised(self, network: Network, x_t: Array, level: Array) -> Array:
        """Returns D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) (eq. 7), not clipped."""
        return self._denoised(network(*self.inputs(x_t, level)), x_t, level)

    def loss_terms(self, out: Array, x0: Array, noise: Array, level: Array) -> Array:
        """Returns the (B,) losses lambda(sigma) |D - x_0|^2 (eq. 8), means over the values."""
        error = self._denoised(out, self.perturb(x0, noise, level), level) - x0
        return self.loss_weight(level) * jnp.square(error).mean(axis=tuple(range(1, x0.ndim)))

    def grid(self, steps: int) -> np.ndarray:
        """Returns (steps + 1,) float64, from sigma_max to sigma_min, then 0 (eq. 5)."""
        if steps < 1:
            raise ValueError(f"{steps} is not a positive number of steps; give 1 or more")
        ends = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return np.append(np.linspace(*ends, steps) ** self.rho, 0)

    def loss_levels(self, n: int) -> np.ndarray:
        """Returns (n,) float32: the quantiles (i + 1/2) / n of the levels that training draws.

        They are rounded to four significant digits.
        """
        normal = NormalDist(self.p_mean, self.p_std)
        sigmas = [np.exp(normal.inv_cdf((i + 0.5) / n)) for i in range(n)]
        return np.array([float(f"{sigma:.4g}") for sigma in sigmas], np.float32)

    def probe_levels(self) -> tuple[float, ...]:
        """Returns DDAE's levels (arXiv 2303.09769).

        They are numbers 3, 4 and 5 of the 18 sampling steps, counted from the clean image.
        """
        return tuple(float(f"{sigma:.4g}") for sigma in self.grid(18)[::-1][3:6])

    def as_level(self, level: float) -> np.float32:
        if not 0 < level < np.inf:
            raise ValueError(f"{level} is not a positive sigma")
        return np.float32(level)
