"""Heads trained while their features are computed (DDAE's protocol).

Noise and augmentation are drawn anew at every step.
"""

import hashlib
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

from ddaepp_jax.base import parallel
from ddaepp_jax.base.dispatch import InFlight, progress_bar
from ddaepp_jax.base.errors import Stopped
from ddaepp_jax.base.files import replace
from ddaepp_jax.base.processes import Delayed, from_first, is_first, together
from ddaepp_jax.base.stop import Stop
from ddaepp_jax.data.augment import crop_and_flip, to_float
from ddaepp_jax.data.order import batch_indices
from ddaepp_jax.diffusion.noise import image_keys
from ddaepp_jax.probing import heads as linear
from ddaepp_jax.probing.features import Extraction, Features, Read
from ddaepp_jax.probing.heads import Heads
from ddaepp_jax.probing.protocols import Protocol
from ddaepp_jax.probing.scaling import Scales, scaled

OnlineStep = Callable[..., tuple[Heads, Array]]
Batch = tuple[Array, Array, Array]  # Images (B, H, W, C), labels (B,) and the images' numbers (B,).


@lru_cache(maxsize=16)
def make_online_step(features: Features, mesh: Mesh, pad: int, flip: bool, l2: float) -> OnlineStep:
    """Returns ``(params, heads, batch, scales, constants, number) -> (heads, number)``, compiled.

    It moves all heads by one step after one forward pass. Images are cropped, mirrored and noised
    as functions of (seed, number of the step, image). Calls with equal arguments share a function;
    the arguments are fields of ``Extraction`` and ``Protocol``.
    """

    def online_step(
        params: Any,
        heads: Heads,
        batch: Batch,
        scales: Scales,
        constants: Mapping[str, Array],
        number: Array,
    ) -> tuple[Heads, Array]:
        images, labels, ids = batch
        seed = constants["seed"]
        x0 = to_float(crop_and_flip(images, seed, number, ids, pad=pad, flip=flip))
        keys = image_keys(seed, "probe", ids)
        inputs = scaled(features(params, x0, keys, number, constants["level"]), scales)
        progress = number / constants["steps"]
        return linear.step(heads, inputs, labels, constants["rates"], progress, l2), number

    return jax.jit(online_step, donate_argnums=1, out_shardings=parallel.replicated(mesh))


def fit(
    extraction: Extraction,
    read: Read,
    ids: np.ndarray,
    heads: Heads,
    scales: Scales,
    protocol: Protocol,
    saved: Path,
    title: str,
) -> Heads:
    """Trains heads on images, on all devices of all processes, and saves them at intervals.

    An epoch is N / batch_size steps, rounded up over the whole training; the order is that of
    ``data.order``. A signal ends the training after the next step.

    Args:
      extraction: how features are computed; its batch size is not used.
      read: reads images and labels by their numbers.
      ids: (N,) int, numbers of the images.
      heads: untrained heads.
      scales: mean and deviation of each layer; an empty mapping leaves features as they are.
      protocol: how heads are trained.
      saved: file of the unfinished training, which continues a stopped one.
      title: title of the progress bar.

    Raises:
      Stopped: a signal ended the training.
    """
    mesh = extraction.mesh
    first, heads = from_first(lambda: _read(saved, jax.device_get(heads)))
    steps = linear.total_steps(len(ids), protocol.epochs, protocol.batch_size)
    constants = {
        "seed": np.uint32(extraction.seed),
        "level": np.asarray(jnp.asarray(extraction.level)),
        "steps": np.float32(steps),
        "rates": np.asarray(protocol.learning_rates, np.float32),
    }
    heads, scales, constants = parallel.put((heads, scales, constants), parallel.replicated(mesh))
    online_step = make_online_step(
        extraction.features, mesh, extraction.pad, extraction.flip, protocol.l2
    )
    writing = Delayed()

    def save() -> None:
        if is_first():
            content = serialization.to_bytes((done, jax.device_get(heads)))
            replace(saved, hashlib.sha256(content).digest() + content)

    def check() -> None:
        writing.check()
        stop.check()

    def read_batch(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        check()
        return read(rows)

    done = first
    with Stop() as stop, progress_bar(steps, "step", title, initial=first) as bar:
        in_flight = InFlight(bar, save)
        try:
            for number in range(first, steps):
                order = batch_indices(extraction.seed, number, protocol.batch_size, len(ids))
                rows = ids[order].astype(np.int32)
                batch = (*parallel.read_rows(mesh, rows, read_batch), *parallel.place(mesh, rows))
                heads, moved = online_step(
                    extraction.params, heads, batch, scales, constants, jnp.int32(number)
                )
                done = number + 1
                with writing:
                    in_flight.add(moved)
            in_flight.finish()
            together(check)
        except Stopped:
            save()
            raise
    return heads


def _read(saved: Path, heads: Heads) -> tuple[int, Heads]:
    """Returns the next step and the heads of an unfinished training; untrained heads without it.

    A damaged file counts as none, and a line says so.
    """
    if not saved.exists():
        return 0, heads
    digest, content = saved.read_bytes()[:32], saved.read_bytes()[32:]
    if hashlib.sha256(content).digest() != digest:
        print(f"warning: {saved}: is damaged; its heads are trained again", flush=True)
        return 0, heads
    return serialization.from_bytes((0, heads), content)
