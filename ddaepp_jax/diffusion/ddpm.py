"""The DDPM process (arXiv 2006.11239): a linear variance schedule in discrete time, the network predicts the noise.

Equation numbers are the paper's. A noise level is the time step t in 1..T; 0 is the clean image.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# What the network is fed for the time step t of T: forms in which papers do it.
TIME_INPUTS: dict[str, Callable[[Array, int], Array]] = {
    "t": lambda t, T: t,  # 1..T
    "t/T": lambda t, T: t / T,  # DDAE: (0, 1]
    "999t/T": lambda t, T: 999 * t / T,  # U-ViT: 999 times its continuous time
}

Network = Callable[[Array, Array], Array]


def per_image(values: Array, like: Array) -> Array:
    """(B,) values shaped to multiply (B, ...) images."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


@dataclasses.dataclass(frozen=True)
class DDPM:
    """Linear-beta DDPM that predicts epsilon.

    Attributes:
      num_steps: T.
      beta_start, beta_end: ends of the linear schedule beta_1..beta_T.
      time_input: a key of ``TIME_INPUTS``.
    """

    num_steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    time_input: str = "t/T"

    @functools.cached_property
    def alpha_bar(self) -> np.ndarray:
        """(T + 1,) float64: alpha_bar_t = prod_{s <= t} (1 - beta_s) (eq. 4), with alpha_bar_0 = 1."""
        betas = np.linspace(self.beta_start, self.beta_end, self.num_steps)
        return np.concatenate([[1.0], np.cumprod(1 - betas)])

    def _coefficients(self, level: Array, like: Array) -> tuple[Array, Array]:
        """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), rounded once from float64, shaped to multiply ``like``."""
        signal = jnp.asarray(np.sqrt(self.alpha_bar), jnp.float32)[level]
        sigma = jnp.asarray(np.sqrt(1 - self.alpha_bar), jnp.float32)[level]
        return per_image(signal, like), per_image(sigma, like)

    def sample_noise_level(self, rng: Array, n: int) -> Array:
        """(n,) int32, t ~ U{1..T}: the levels of training (algorithm 1)."""
        return jax.random.randint(rng, (n,), 1, self.num_steps + 1)

    def perturb(self, x0: Array, noise: Array, level: Array) -> Array:
        """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) epsilon (eq. 4); images (B, H, W, C), ``level`` (B,)."""
        signal, sigma = self._coefficients(level, x0)
        return signal * x0 + sigma * noise

    def inputs(self, x_t: Array, level: Array) -> tuple[Array, Array]:
        """What the network is fed: the noisy image as it is, and the time in the form ``time_input``."""
        return x_t, TIME_INPUTS[self.time_input](level.astype(jnp.float32), self.num_steps)

    def denoised(self, network: Network, x_t: Array, level: Array) -> Array:
        """x0_hat = (x_t - sqrt(1 - alpha_bar_t) eps_theta) / sqrt(alpha_bar_t) (eq. 15), not clipped."""
        signal, sigma = self._coefficients(level, x_t)
        return (x_t - sigma * network(*self.inputs(x_t, level))) / signal

    def loss_terms(self, out: Array, x0: Array, noise: Array, level: Array) -> Array:
        """(B,) the simple loss (eq. 14), mean over an image's values, of the network's output ``out``."""
        del x0, level
        return jnp.square(out - noise).mean(axis=tuple(range(1, out.ndim)))

    def loss_levels(self, n: int) -> np.ndarray:
        """(n,) int32, from 1 to T evenly: levels at which held-out loss is reported."""
        return np.linspace(1, self.num_steps, n).round().astype(np.int32)

    def probe_levels(self) -> tuple[int, ...]:
        """Noise levels of the linear-probe grid (DDAE, arXiv 2303.09769): 1.1 % of the steps is often the best."""
        return 1, 11, 21

    def as_level(self, level: float) -> np.int32:
        """A noise level given from outside, in the type that ``perturb`` takes; ValueError unless one of 0..T."""
        if not (0 <= level <= self.num_steps and level == int(level)):
            raise ValueError(f"{level} is not a whole number in 0..{self.num_steps}")
        return np.int32(level)
