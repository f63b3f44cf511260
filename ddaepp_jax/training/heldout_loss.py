"""The loss of held-out images by noise level, with the same noise at each evaluation."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh

from ddaepp_jax.base import parallel
from ddaepp_jax.data.augment import to_float
from ddaepp_jax.diffusion.noise import image_keys, image_noise
from ddaepp_jax.diffusion.process import Process


def make_heldout_loss(
    network: nn.Module,
    process: Process,
    images: np.ndarray,
    labels: np.ndarray | None,
    *,
    levels: Sequence[int | float],
    seed: int,
    batch_size: int,
    mesh: Mesh,
) -> Callable[[Any], dict[str, float]]:
    """Makes a function of the network's parameters that measures the held-out loss.

    Args:
      images: (N, H, W, C) uint8.
      labels: (N,) int; None where the network takes no labels.
      levels: noise levels, in the process's unit.

    Returns:
      A function that returns the mean loss at each level ("t0112", "sigma0.259") and "mean", the
      mean of these.
    """

    def losses(
        params: Any, images: Array, labels: Array | None, ids: Array, number: Array, level: Array
    ) -> Array:
        """Returns the (B,) losses at ``level``; its index ``number`` selects the noise."""
        x0 = to_float(images)
        keys = image_keys(seed, "heldout", ids)
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
        noise = image_noise(keys, x0.shape[1:])
        image_levels = jnp.full(ids.shape, level)
        x, t = process.inputs(process.perturb(x0, noise, image_levels), image_levels)
        out, _ = network.apply({"params": params}, x, t, labels, capture=())
        return process.loss_terms(out, x0, noise, image_levels)

    compiled = jax.jit(losses, out_shardings=parallel.replicated(mesh))

    def heldout_loss(params: Any) -> dict[str, float]:
        totals = np.zeros(len(levels))
        for rows, count in parallel.batches(len(images), batch_size, mesh):
            pixels, ids = parallel.place(mesh, images[rows], rows)
            classes = None if labels is None else parallel.place(mesh, labels[rows])[0]
            # Dispatch all levels before reading the first.
            dispatched = [
                compiled(params, pixels, classes, ids, jnp.uint32(i), process.as_level(level))
                for i, level in enumerate(levels)
            ]
            totals += [np.asarray(loss, np.float64)[:count].sum() for loss in dispatched]
        means = totals / len(images)
        names = [f"{level:04d}" if isinstance(level, int) else f"{level:g}" for level in levels]
        values = {
            f"{process.unit}{name}": float(mean) for name, mean in zip(names, means, strict=True)
        }
        return values | {"mean": float(means.mean())}

    return heldout_loss
