"""The images of a probe: those that train heads, those that choose among heads, those that test."""

import numpy as np

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.processes import from_first
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.data.fingerprint import fingerprint
from ddaepp_jax.data.order import batch_indices

DIAGNOSED = 2048  # At most this many images diagnose the features.


def split_rows(n: int, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits the rows of ``n`` images, shuffled by ``seed``.

    Args:
      n: number of images.
      held_out: share of the second part, in 0..1.
      seed: seed of the images' order.

    Returns:
      Rows to train heads on, and rows held out from them.
    """
    order = np.asarray(batch_indices(seed, 0, n, n))
    count = round(n * held_out)
    return order[count:], order[:count]


class Splits:
    """Labelled images by number: the training split's come first, then the test split's.

    Attributes:
      num_classes: number of classes.
      parts: numbers of the images by part: "train", on which heads are trained; "held_out", which
        may be empty; and "test".
      chosen_by: the part that chooses layer, level and learning rate: "held_out", or "test" if
        no image is held out.
      diagnosed: numbers of the images that diagnose the features, spread evenly over the part that
        chooses.
      described: descriptions of the parts, for the results.
      fingerprints: fingerprints of the two splits, "train_images" and "test_images".
    """

    def __init__(self, train: Dataset, test: Dataset, held_out: float, seed: int) -> None:
        """Splits the images.

        Args:
          train: the training split.
          test: the test split.
          held_out: share of the training split that is held out to choose by, in [0, 1).
          seed: seed of the split.

        Raises:
          InputError: the test split or one of the two parts of the training split has no image,
            or the test split has the images of the training split.
        """
        if not len(test):
            raise InputError(f"data.eval_split: {test.split} of {test.name} has no images")
        rows, held_out_rows = split_rows(len(train), held_out, seed)
        if not len(rows) or (held_out and not len(held_out_rows)):
            raise InputError(
                f"held_out: {held_out} of {len(train)} images are {len(held_out_rows)}; "
                "give a share that leaves images on both sides, or 0, by which the test split "
                "chooses"
            )
        self._train = train
        self._test = test
        self.num_classes = train.num_classes
        self.parts = {
            "train": rows,
            "held_out": held_out_rows,
            "test": np.arange(len(train), len(train) + len(test)),
        }
        self.chosen_by = "held_out" if held_out else "test"
        choosing = self.parts[self.chosen_by]
        self.diagnosed = choosing[:: -(-len(choosing) // DIAGNOSED)]
        self.fingerprints = from_first(
            lambda: {"train_images": fingerprint(train), "test_images": fingerprint(test)}
        )
        if len(set(self.fingerprints.values())) == 1:
            raise InputError(
                f"data.eval_split: the images of {test.split!r} are those of {train.split!r}, on "
                "which heads are trained; give a split of other images"
            )
        self.described = {
            "name": train.name,
            "heads trained on": f"{len(rows)} images of {train.split}",
            "chosen on": (
                f"{len(held_out_rows)} images of {train.split}, held out from the heads"
                if held_out
                else f"the test split ({test.split}), as no image was held out"
            ),
            "tested on": f"{len(test)} images of {test.split}",
            "diagnosed on": f"two views each of {len(self.diagnosed)} that choose",
        }

    def read(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reads images (B, H, W, C) uint8 and labels (B,) int32 by their numbers (B,)."""
        first_test = len(self._train)
        images = np.empty((len(ids), *self._train.image_shape), self._train.dtype)
        labels = np.empty(len(ids), np.int32)
        for rows, data, first in (
            (ids < first_test, self._train, 0),
            (ids >= first_test, self._test, first_test),
        ):
            if rows.any():
                images[rows], labels[rows] = data.gather(ids[rows] - first)
        return images, labels
