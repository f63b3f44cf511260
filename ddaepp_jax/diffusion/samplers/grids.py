"""The grids of noise levels of variance-preserving processes, by name.

Each grid falls from the process's noisiest level to its cleanest, and ends at 0, the clean image:

  time: even in time, see ``grid`` of the process.
  quadratic: even in the square root of time (DDIM, arXiv 2010.02502, appendix D.2).
  log-snr: even in lambda = log(signal / sigma) (DPM-Solver, arXiv 2206.00927, section 3.4).
  karras: even in the root rho = 7 of sigma / signal, the noise level of EDM (arXiv 2206.00364,
    eq. 5).

The network was trained at each level: in discrete time the levels are rounded to different steps.
"""

from collections.abc import Callable

import numpy as np

from ddaepp_jax.base.choice import choose
from ddaepp_jax.diffusion.vp import VariancePreserving

RHO = 7.0  # EDM's


def _between(first: float, last: float, power: float, steps: int) -> np.ndarray:
    """Returns (steps,) float64 from ``first`` to ``last``, even in x ** (1 / power)."""
    return np.linspace(first ** (1 / power), last ** (1 / power), steps) ** power


def _quadratic(process: VariancePreserving, steps: int) -> np.ndarray:
    return process.trained_levels(_between(*process.ends, 2, steps))


def _log_snr(process: VariancePreserving, steps: int) -> np.ndarray:
    # sigma / signal = exp(-lambda).
    first, last = process.noise_to_signal(np.array(process.ends))
    return process.trained_levels(process.level_at(np.geomspace(first, last, steps)))


def _karras(process: VariancePreserving, steps: int) -> np.ndarray:
    first, last = process.noise_to_signal(np.array(process.ends))
    return process.trained_levels(process.level_at(_between(first, last, RHO, steps)))


GRIDS: dict[str, Callable[[VariancePreserving, int], np.ndarray]] = {
    "time": lambda process, steps: process.grid(steps)[:-1],
    "quadratic": _quadratic,
    "log-snr": _log_snr,
    "karras": _karras,
}


def levels(process: VariancePreserving, grid: str, steps: int) -> np.ndarray:
    """Returns the (steps + 1,) falling levels of a grid, in the type of the process's levels.

    Args:
      process: the process.
      grid: a key of ``GRIDS``.
      steps: number of steps, each of which evaluates the denoiser once.

    Raises:
      ValueError: there is no such grid, and the message begins with "grid"; or the process has
        no grid with this number of steps.
    """
    spaced = choose("grid", grid, GRIDS)
    process.grid(steps)  # It refuses a wrong number of steps.
    noisy = spaced(process, steps)
    return np.append(noisy, noisy.dtype.type(0))
