"""The images of a probe: those that heads are trained on, those that choose among them, those that
test them.
"""

import numpy as np

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.data.order import batch_indices


def split_rows(n: int, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits the rows of ``n`` images, shuffled by ``seed``.

    Args:
      n: number of images.
      held_out: share of the second part, in 0..1.
      seed: of the order.

    Returns:
      Rows to train heads on, and rows held out from them.
    """
    order = np.asarray(batch_indices(seed, 0, n, n))
    count = round(n * held_out)
    return order[count:], order[:count]


class Splits:
    """Labelled images by their numbers: those of the training split first, those of the test split
    after them.

    Attributes:
      num_classes: of the data.
      parts: {"fit", "held_out", "test"}: numbers of the images that heads are trained on, chosen by
        and tested on; where none is held out, the test split chooses.
      chosen_by: the part that chooses.
      described: the same in words.
    """

    def __init__(self, train: Dataset, test: Dataset, held_out: float, seed: int) -> None:
        """``held_out``: the part of the training split that chooses, drawn by ``seed``.

        Raises:
          InputError: it leaves no image on one of the two sides.
        """
        fit, choose = split_rows(len(train), held_out, seed)
        if not len(fit) or (held_out and not len(choose)):
            raise InputError(
                f"held_out: {held_out} of {len(train)} images are {len(choose)}; change it"
            )
        self._train, self._test = train, test
        self.num_classes = train.num_classes
        self.parts = {
            "fit": fit,
            "held_out": choose,
            "test": np.arange(len(train), len(train) + len(test)),
        }
        chosen_on = f"{len(choose)} images of {train.split}, held out from the heads"
        self.chosen_by = "held_out" if held_out else "test"
        self.described = {
            "name": train.name,
            "heads trained on": f"{len(fit)} images of {train.split}",
            "chosen on": chosen_on
            if held_out
            else f"the test split ({test.split}), as no image was held out",
            "tested on": f"{len(test)} images of {test.split}",
        }

    def read(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B,) numbers -> (B, H, W, C) uint8 and (B,) int32."""
        first = len(self._train)
        images, labels = (
            np.empty((len(ids), *self._train.image_shape), np.uint8),
            np.empty(len(ids), np.int32),
        )
        for here, data, start in ((ids < first, self._train, 0), (ids >= first, self._test, first)):
            if here.any():
                images[here], labels[here] = data.gather(ids[here] - start)
        return images, labels
