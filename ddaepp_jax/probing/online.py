"""Heads trained while the features are made: noise and augmentation are drawn anew at every step
(DDAE's protocol).
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from jax import Array
from jax.sharding import Mesh
from tqdm import tqdm

from ddaepp_jax.base import parallel
from ddaepp_jax.base.dispatch import SAVE_SECONDS
from ddaepp_jax.base.files import replace
from ddaepp_jax.data.augment import crop_and_flip, to_float
from ddaepp_jax.data.order import batch_indices
from ddaepp_jax.diffusion.noise import image_keys
from ddaepp_jax.probing import heads as probes
from ddaepp_jax.probing.features import Features
from ddaepp_jax.probing.heads import Heads, Protocol, Scales
from ddaepp_jax.probing.stored import Read

IN_FLIGHT = 2  # steps that the host may be ahead

OnlineStep = Callable[..., tuple[Heads, Array]]


@lru_cache(maxsize=16)
def make_online_step(
    features: Features, *, flip: bool, pad: int, l2: float, mesh: Mesh
) -> OnlineStep:
    """Compile-once function: one step of all heads on one forward pass; the same for the same
    arguments.

    Images are cropped out of ``pad`` pixels around, mirrored by a fair coin where ``flip``, and
    noised, as functions of (seed, number of the step, image).
    """

    def online_step(
        params: Any,
        heads: Heads,
        images: Array,
        labels: Array,
        ids: Array,
        scales: Scales,
        constants: Mapping[str, Array],
        number: Array,
    ) -> tuple[Heads, Array]:
        seed = constants["seed"]
        images = crop_and_flip(images, seed, number, ids, pad=pad, flip=flip)
        found = features(
            params, to_float(images), image_keys(seed, "probe", ids), number, constants["level"]
        )
        done = number / constants["steps"]
        return probes.step(
            heads, probes.scaled(found, scales), labels, constants["rates"], done, l2
        ), number

    return jax.jit(online_step, donate_argnums=1, out_shardings=parallel.replicated(mesh))


def fit(
    features: Features,
    params: Any,
    read: Read,
    ids: np.ndarray,
    heads: Heads,
    scales: Scales,
    protocol: Protocol,
    *,
    flip: bool,
    pad: int,
    level: Any,
    seed: int,
    mesh: Mesh,
    saved: Path,
    title: str,
) -> Heads:
    """``heads`` trained on the images ``ids`` (N,); now and then they are saved, and continued from
    ``saved``.

    An epoch is N / batch_size steps, rounded up over the whole; the order is that of
    ``data.order``.
    """
    size, first = protocol.batch_size, 0
    if saved.exists():
        first, heads = serialization.from_bytes((0, heads), saved.read_bytes())
    steps = probes.total_steps(len(ids), protocol.epochs, size)
    constants = {"seed": np.uint32(seed), "level": level, "steps": np.float32(steps)}
    constants["rates"] = np.asarray(protocol.learning_rates, np.float32)
    heads, scales, constants = jax.device_put((heads, scales, constants), parallel.replicated(mesh))
    take = make_online_step(features, flip=flip, pad=pad, l2=protocol.l2, mesh=mesh)
    in_flight: deque[Array] = deque()
    written = time.monotonic()
    for number in tqdm(
        range(first, steps), initial=first, total=steps, unit="step", desc=title, dynamic_ncols=True
    ):
        rows = ids[batch_indices(seed, number, size, len(ids))].astype(np.int32)
        batch = parallel.place(mesh, *read(rows), rows)
        heads, done = take(params, heads, *batch, scales, constants, jnp.int32(number))
        in_flight.append(done)
        if len(in_flight) > IN_FLIGHT:
            jax.block_until_ready(in_flight.popleft())
        if time.monotonic() - written > SAVE_SECONDS:
            replace(saved, serialization.to_bytes((number + 1, jax.device_get(heads))))
            written = time.monotonic()
    return heads
