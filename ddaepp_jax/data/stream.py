"""Batches of data sets that do not fit on the device, read ahead by Grain."""

from collections.abc import Iterator

import numpy as np

from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.data.order import batch_indices


def stream(
    dataset: Dataset,
    seed: int,
    batch_size: int,
    start: int,
    stop: int,
    rows: np.ndarray,
    threads: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """This process's share of the global batches ``start, start + 1, .., stop - 1``.

    Batch number n is a function of (seed, n) alone, so resuming at n is starting at n, and the
    global batch does not depend on the number of processes.

    Args:
        dataset: where the images come from.
        seed: of the order (``order.batch_indices``).
        batch_size: of the global batch, over all processes.
        start, stop: numbers of the first batch and of the one after the last.
        rows: (R,) int, the positions in the global batch that this process holds.
        threads: reading threads; each decodes one batch at a time, two batches a thread are read
          ahead.

    Yields:
        What ``Dataset.batch`` gives for the R rows: "image" (R, H, W, C) uint8, "label" and "index"
        (R,) int32.
    """
    import grain

    def load(step: int) -> dict[str, np.ndarray]:
        return dataset.batch(np.asarray(batch_indices(seed, step, batch_size, len(dataset)))[rows])

    steps = grain.MapDataset.range(start, stop).map(load)
    # Grain's own defaults (16 threads, 500 batches ahead) are slow for small images and take memory
    # for large ones.
    yield from steps.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    )
