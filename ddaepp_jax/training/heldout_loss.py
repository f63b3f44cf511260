"""The training loss on held-out images, by noise level, with noise that is the same at every
evaluation.
"""

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
    """A function of the network's parameters: the loss at each level ("t0112", "sigma0.259"), and
    their "mean".

    Args:
      images: (N, H, W, C) uint8.
      labels: (N,) int, or None where the network takes none.
    """

    def losses(
        params: Any, images: Array, labels: Array | None, ids: Array, number: Array, level: Array
    ) -> Array:
        x0 = to_float(images)
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(
            image_keys(seed, "heldout", ids), number
        )
        noise, levels = image_noise(keys, x0.shape[1:]), jnp.full(ids.shape, level)
        inputs = process.inputs(process.perturb(x0, noise, levels), levels)
        out, _ = network.apply({"params": params}, *inputs, labels, capture=())
        return process.loss_terms(out, x0, noise, levels)

    compiled = jax.jit(losses, out_shardings=parallel.replicated(mesh))

    def heldout_loss(params: Any) -> dict[str, float]:
        totals = np.zeros(len(levels))
        for rows, count in parallel.batches(len(images), batch_size, mesh):
            pixels, ids = parallel.place(mesh, images[rows], rows)
            given = None if labels is None else parallel.place(mesh, labels[rows])[0]
            # All levels are under way before the first is read.
            queued = [
                compiled(params, pixels, given, ids, jnp.uint32(i), jnp.asarray(level))
                for i, level in enumerate(levels)
            ]
            totals += [np.asarray(loss, np.float64)[:count].sum() for loss in queued]
        means = totals / len(images)
        names = [f"{level:04d}" if isinstance(level, int) else f"{level:g}" for level in levels]
        values = {
            f"{process.unit}{name}": float(mean) for name, mean in zip(names, means, strict=True)
        }
        return values | {"mean": float(means.mean())}

    return heldout_loss
