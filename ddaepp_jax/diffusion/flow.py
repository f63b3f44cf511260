"""Flow matching (arXiv 2210.02747) on SiT's linear path (arXiv 2401.08740): velocity prediction.

A noise level is the time t in [0, 1], with the data at t = 1. The papers call the data x_1 and the
noise x_0. Here the clean image is ``x0``, as everywhere in this project, and
x_t = t x0 + (1 - t) noise.
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
class Flow:
    """A flow; see ``Process`` for the methods. The defaults are LightningDiT's (arXiv 2501.01423).

    Attributes:
      time_sampling: how training draws t: "logit-normal", logit(t) ~ N(p_mean, p_std^2), or
        "uniform", t ~ U[0, 1).
      p_mean, p_std: see ``time_sampling``.
      cosine_loss: add 1 minus the cosine between the velocities, as vectors of channels. Its
        gradient is enormous at an output of zero, whose norm counts as 1e-8: clip gradients if the
        last layer starts at zero. With one channel the cosine is only a sign, without a gradient.
      time_input: a key of ``Flow.TIME_INPUTS``.
    """

    time_sampling: str = "logit-normal"
    p_mean: float = 0.0
    p_std: float = 1.0
    cosine_loss: bool = True
    time_input: str = "t"

    unit = "t"
    TIME_INPUTS: ClassVar[dict[str, Callable[[Array], Array]]] = {"t": lambda t: t}

    def __post_init__(self) -> None:
        """Raises a ValueError that begins with the wrong field."""
        choose("time_input", self.time_input, self.TIME_INPUTS)
        choose("time_sampling", self.time_sampling, ("logit-normal", "uniform"))
        if not self.p_std > 0:
            raise ValueError(f"p_std: {self.p_std} is not positive")

    def sample_noise_level(self, rng: Array, n: int) -> Array:
        """Draws (n,) float32 as ``time_sampling`` says."""
        if self.time_sampling == "uniform":
            return jax.random.uniform(rng, (n,), jnp.float32)
        return jax.nn.sigmoid(self.p_mean + self.p_std * jax.random.normal(rng, (n,), jnp.float32))

    def perturb(self, x0: Array, noise: Array, level: Array) -> Array:
        """Returns x_t = t x0 + (1 - t) noise."""
        t = per_image(level, x0)
        return t * x0 + (1 - t) * noise

    def inputs(self, x_t: Array, level: Array) -> tuple[Array, Array]:
        """Returns the noisy image unchanged, and the time in the form ``time_input``."""
        return x_t, self.TIME_INPUTS[self.time_input](level)

    def denoised(self, network: Network, x_t: Array, level: Array) -> Array:
        """Returns x0_hat = x_t + (1 - t) v, not clipped: the velocity is followed until t = 1."""
        return x_t + per_image(1 - level, x_t) * network(*self.inputs(x_t, level))

    def loss_terms(self, out: Array, x0: Array, noise: Array, level: Array) -> Array:
        """Returns the (B,) losses |v_hat - v|^2 with v = x0 - noise, means over the values.

        ``cosine_loss`` adds 1 - cos(v_hat, v) over the channels, mean over the positions.
        """
        del level
        velocity = x0 - noise
        inner = tuple(range(1, x0.ndim))
        loss = jnp.square(out - velocity).mean(axis=inner)
        if not self.cosine_loss:
            return loss
        # Norms are at least 1e-8, as in PyTorch. The maximum is taken of the squares, so that the
        # gradient is finite at zero.
        norms = [jnp.sqrt(jnp.maximum(jnp.square(v).sum(-1), 1e-16)) for v in (out, velocity)]
        return loss + (1 - (out * velocity).sum(-1) / (norms[0] * norms[1])).mean(axis=inner[:-1])

    def grid(self, steps: int) -> np.ndarray:
        """Returns (steps + 1,) float64, evenly from 0 to 1."""
        if steps < 1:
            raise ValueError(f"{steps} is not a positive number of steps; give 1 or more")
        return np.linspace(0, 1, steps + 1)

    def loss_levels(self, n: int) -> np.ndarray:
        """Returns (n,) float32: the quantiles (i + 1/2) / n of the levels that training draws.

        They are rounded to four significant digits.
        """
        levels = (np.arange(n) + 0.5) / n
        if self.time_sampling == "logit-normal":
            normal = NormalDist(self.p_mean, self.p_std)
            levels = 1 / (1 + np.exp([-normal.inv_cdf(level) for level in levels]))
        return np.array([float(f"{t:.4g}") for t in levels], np.float32)

    def probe_levels(self) -> tuple[float, ...]:
        """Returns this project's levels.

        They have little noise, as in the other processes, but are more widely spaced.
        """
        return 0.6, 0.7, 0.8, 0.9, 0.95

    def as_level(self, level: float) -> np.float32:
        if not 0 <= level <= 1:
            raise ValueError(f"{level} is not in 0..1")
        return np.float32(level)
