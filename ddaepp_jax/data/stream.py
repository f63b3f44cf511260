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
    """Yields this process's share of the global batches ``start, start + 1, .., stop - 1``.

    Batch n depends on (seed, n) alone. So a run that resumes at n starts at n, and the global
    batch does not depend on the number of processes.

    Args:
      dataset: source of the images.
      seed: seed of the order, see ``order.batch_indices``.
      batch_size: size of the global batch, over all processes.
      start: number of the first batch.
      stop: end of the batches' numbers, exclusive.
      rows: (R,) int, the positions in the global batch that this process holds.
      threads: number of reading threads. Each decodes one batch at a time; two batches a thread
        are read ahead.

    Yields:
      The R rows as ``Dataset.batch`` returns them: "image" (R, H, W, C) uint8, "label" (R,) int32
      and "index" (R,) int32.
    """
    import grain

    def load(step: int) -> dict[str, np.ndarray]:
        indices = np.asarray(batch_indices(seed, step, batch_size, len(dataset)))
        return dataset.batch(indices[rows])

    batches = grain.MapDataset.range(start, stop).map(load)
    # Grain's defaults (16 threads, 500 batches ahead) are slow for small images and take much
    # memory for large ones.
    yield from batches.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    )
