"""Checks of the arguments of ``Run``'s methods."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ddaepp_jax import build
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.numbers import whole

if TYPE_CHECKING:
    from ddaepp_jax.run.opened import Run


def check_numbers(seed: int, **counts: int) -> None:
    """Refuses counts that are not positive whole numbers, and a seed that does not fit 32 bits."""
    for name, count in counts.items():
        whole(name, count, 1, 2**31 - 1)
    whole("seed", seed, 0, 2**32 - 1)


def checked_images(run: "Run", images: np.ndarray) -> np.ndarray:
    """Refuses images of another type or shape than a run's, and an empty array."""
    try:
        images = np.asarray(images)
    except (TypeError, ValueError):  # e.g. different shapes, or an argument of jax.jit
        raise InputError("images: they are no array of numbers; give one") from None
    dtype = "float32" if run.config.data.name == build.LATENTS else "uint8"
    if images.dtype != dtype or images.shape[1:] != run.image_shape or not images.size:
        shape = ", ".join(map(str, run.image_shape))
        raise InputError(
            f"images: {images.dtype} {images.shape}; give {dtype} of shape (N, {shape}), with "
            "N of 1 or more"
        )
    return images


def latents_of(run: "Run", images: np.ndarray) -> np.ndarray:
    """Returns the latents of pictures (N, H, W, 3) uint8; what is no uint8 is returned as it is."""
    pictures = getattr(images, "dtype", None) == np.uint8 and getattr(images, "ndim", 0) == 4
    return run.encode(images) if pictures and len(images) else images


def labels_of(
    run: "Run", labels: Sequence[int] | int | None, ids: np.ndarray, guidance: float
) -> np.ndarray | None:
    """Returns the labels (N,) of the images ``ids``; None if the network takes none."""
    if not run.config.model.class_conditional:
        if labels is not None or guidance != 1:
            field = "labels" if labels is not None else "guidance"
            raise InputError(
                f"{field}: this run was trained without labels "
                "(model.class_conditional=False); leave it out"
            )
        return None
    try:
        values = ids % run.num_classes if labels is None else np.asarray(labels)
    except (TypeError, ValueError):
        raise InputError("labels: they are no array of numbers; give one") from None
    if values.dtype.kind not in "iu" or values.shape not in ((), ids.shape):
        raise InputError(
            f"labels: {values.dtype} {values.shape}; give a class, or {len(ids)} of them, "
            "one for each image"
        )
    values = np.broadcast_to(values, ids.shape)
    outside = values[(values < 0) | (values >= run.num_classes)]
    if len(outside):
        raise InputError(f"labels: {outside[0]} is not in 0..{run.num_classes - 1}")
    return values


def check_guide(run: "Run", guide: "Run | None", autoguidance: float) -> None:
    """Refuses a guide with another shape, process or labels.

    A guide without a scale and a scale without a guide are refused too.
    """
    if guide is None:
        if autoguidance != 1:
            raise InputError(f"autoguidance: {autoguidance} needs a guide; give guide, a worse run")
        return
    if autoguidance == 1:
        raise InputError("guide: autoguidance is 1, which has no effect; give a scale, e.g. 2")
    process = guide.process
    if type(process) is type(run.process):
        # Each network may have its own time input.
        process = dataclasses.replace(process, time_input=run.process.time_input)
    for fact, theirs, ours in (
        ("image shape", guide.image_shape, run.image_shape),
        ("process", process, run.process),
        ("number of labels", guide.module.num_classes, run.module.num_classes),
    ):
        if theirs != ours:
            raise InputError(
                f"guide: {guide.workdir} has another {fact} ({theirs}, not {ours}); "
                f"give a run with the same {fact}"
            )
