"""Guidance combines the estimates of two or four denoisers into one."""

import dataclasses
import math
from collections.abc import Callable
from numbers import Real

import jax
import jax.numpy as jnp
from jax import Array

from ddaepp_jax.diffusion.process import Denoiser, per_image


def guided(
    main: Denoiser,
    base: Denoiser,
    scale: float,
    interval: tuple[float, ...] = (),
    channels: int = 0,
) -> Denoiser:
    """Returns the denoiser base + scale * (main - base).

    x0_hat is affine in epsilon and in the velocity, with the same coefficients for both denoisers;
    guiding x0_hat therefore guides the network's prediction. Scale 1 is no guidance, bit for bit;
    papers that count from 0 write w = scale - 1.

    Args:
      main, base: denoisers; a scale above 1 moves away from ``base``.
      interval: (low, high) levels in the process's unit, inclusive. Images at other levels get
        ``main`` alone, and where no image is inside, ``base`` is not computed (arXiv 2404.07724).
        (): every level.
      channels: guide only the first N channels, as LightningDiT does with 3 (0: all).
    """
    if scale == 1:
        return main

    def denoiser(x_t: Array, level: Array) -> Array:
        alone = main(x_t, level)

        def away() -> Array:
            other = base(x_t, level)
            moved = other + scale * (alone - other)
            if channels == 0:
                return moved
            return jnp.concatenate([moved[..., :channels], alone[..., channels:]], -1)

        if not interval:
            return away()
        low, high = interval
        levels = level.astype(jnp.float32)
        inside = (low <= levels) & (levels <= high)
        return jax.lax.cond(
            inside.any(), lambda: jnp.where(per_image(inside, x_t), away(), alone), lambda: alone
        )

    return denoiser


@dataclasses.dataclass(frozen=True)
class Guidance:
    """The guidance of a sampler's denoiser.

    Attributes:
      scale: scale of classifier-free guidance (arXiv 2207.12598), which moves from the estimate
        without a label to that with the label; 1: none.
      interval, channels: see ``guided``; they apply to classifier-free guidance.
      autoguidance: scale of autoguidance (arXiv 2406.02507), which moves from a worse network's
        estimate to the network's; 1: none.
    """

    scale: float = 1.0
    interval: tuple[float, ...] = ()
    channels: int = 0
    autoguidance: float = 1.0

    def __post_init__(self) -> None:
        """Raises a ValueError that begins with the wrong field."""
        interval = self.interval
        numbers = all(isinstance(level, Real) and math.isfinite(level) for level in interval)
        if interval and not (numbers and len(interval) == 2 and interval[0] < interval[1]):
            raise ValueError(
                f"interval: {interval} is wrong; give two rising levels, e.g. (0.1, 1.0), or ()"
            )
        if self.channels < 0:
            raise ValueError(f"channels: {self.channels} is negative; 0 guides all")

    def denoiser(
        self,
        network: Callable[[Array | None], Denoiser],
        labels: Array | None,
        guide: Callable[[Array | None], Denoiser] | None = None,
    ) -> Denoiser:
        """Returns the guided denoiser.

        Autoguidance comes first, with and without the label; classifier-free guidance is applied
        between the two results.

        Args:
          network, guide: make the denoiser of the network and of the worse network from (B,)
            labels, or from None, which stands for no label.
          labels: (B,) int; None where the network takes no labels, which turns classifier-free
            guidance off.
        """

        def autoguided(y: Array | None) -> Denoiser:
            return network(y) if guide is None else guided(network(y), guide(y), self.autoguidance)

        if labels is None:
            return autoguided(None)
        return guided(
            autoguided(labels), autoguided(None), self.scale, self.interval, self.channels
        )
