"""The fingerprint of a set of images, by which what was computed of them is found again."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from ddaepp_jax.base.dispatch import progress_bar

PIECE = 2**26  # bytes of images that are read at once


def fingerprint(
    read: Callable[[np.ndarray], Sequence[np.ndarray]],
    count: int,
    image_shape: tuple[int, ...],
    title: str,
    facts: object = None,
) -> str:
    """Returns the SHA-256 of a set: its size, every byte of its arrays, and more facts.

    The path of the set does not count. A progress bar appears if reading takes long.

    Args:
      read: maps ids (B,) to arrays with B rows, of which the first are the images.
      count: number of images.
      image_shape: (H, W, C).
      title: title of the progress bar.
      facts: what else tells the set from others, e.g. the names of its classes.
    """
    size = np.array([count, *image_shape], "<i8")
    digest = hashlib.sha256(size.tobytes() + (b"" if facts is None else repr(facts).encode()))
    step = max(1, PIECE // max(1, int(np.prod(image_shape))))
    with progress_bar(count, "image", title, delay=2) as bar:
        for start in range(0, count, step):
            ids = np.arange(start, min(start + step, count))
            for array in read(ids):
                digest.update(np.ascontiguousarray(array))
            bar.update(len(ids))
    return digest.hexdigest()
