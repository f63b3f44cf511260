"""Guidance: a denoiser made of two, or of four."""

import dataclasses
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
    """base + scale * (main - base): away from what ``base`` says, where ``scale`` is above 1.

    x0_hat is affine in epsilon and in the velocity, with the same coefficients for both denoisers,
    so guiding x0_hat is guiding what the network predicts. ``scale`` 1 is no guidance, bit for bit;
    the papers that count from 0 write w = scale - 1.

    Args:
      interval: (low, high) levels in the process's unit, inclusive: images at others get ``main``
        alone, and where all images are at others, ``base`` is not computed (arXiv 2404.07724). ():
        every level.
      channels: the first so many are guided, the others are those of ``main`` (LightningDiT's 3);
        0: all.
    """
    if scale == 1:
        return main

    def denoiser(x_t: Array, level: Array) -> Array:
        alone = main(x_t, level)

        def away() -> Array:
            other = base(x_t, level)
            moved = other + scale * (alone - other)
            return (
                jnp.concatenate([moved[..., :channels], alone[..., channels:]], -1)
                if channels
                else moved
            )

        if not interval:
            return away()
        low, high = interval
        inside = (low <= level) & (level <= high)
        return jax.lax.cond(
            inside.any(), lambda: jnp.where(per_image(inside, x_t), away(), alone), lambda: alone
        )

    return denoiser


@dataclasses.dataclass(frozen=True)
class Guidance:
    """Which guidance a sampler's denoiser has.

    Attributes:
      scale: of classifier-free guidance (arXiv 2207.12598), from no label to the label; 1: none.
      interval, channels: where that applies; see ``guided``.
      autoguidance: scale of autoguidance (arXiv 2406.02507), from a worse network to the network;
        1: none.
    """

    scale: float = 1.0
    interval: tuple[float, ...] = ()
    channels: int = 0
    autoguidance: float = 1.0

    def __post_init__(self) -> None:
        interval = self.interval
        numbers = all(isinstance(level, Real) for level in interval)
        if interval and not (numbers and len(interval) == 2 and interval[0] < interval[1]):
            raise ValueError(
                f"interval: {interval} is not two rising levels, e.g. (0.1, 1.0), nor () for every level"
            )
        if self.channels < 0:
            raise ValueError(f"channels: {self.channels} is negative; 0 guides all")

    def denoiser(
        self,
        network: Callable[[Array | None], Denoiser],
        labels: Array | None,
        guide: Callable[[Array | None], Denoiser] | None = None,
    ) -> Denoiser:
        """The guided denoiser: with and without the label autoguided, then classifier-free between
        the two.

        Args:
          network, guide: denoisers of the network and of the worse one, by labels (B,), or None:
            without labels.
          labels: None of a network that knows none; there is no classifier-free guidance then.
        """

        def autoguided(y: Array | None) -> Denoiser:
            return network(y) if guide is None else guided(network(y), guide(y), self.autoguidance)

        if labels is None:
            return autoguided(None)
        return guided(
            autoguided(labels), autoguided(None), self.scale, self.interval, self.channels
        )
