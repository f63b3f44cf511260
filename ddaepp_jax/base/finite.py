"""The search for numbers that are not finite."""

from typing import Any

import jax
import numpy as np

from ddaepp_jax.base.errors import InputError


def check_finite(arrays: Any, noun: str, mend: str) -> None:
    """Refuses a tree of arrays with a NaN or an infinite number.

    Args:
      arrays: a tree of floating-point arrays, or a dictionary of them by name.
      noun: begins the message and says whose arrays they are, e.g. "--checkpoint: FILE".
      mend: what the user can do.

    Raises:
      InputError: an array is not finite; the message names it, and how many numbers are wrong.
    """
    for path, array in jax.tree_util.tree_leaves_with_path(arrays):
        values = np.asarray(array)
        if values.dtype.kind in "iub":
            continue
        wrong = values.size - int(np.isfinite(values.astype(np.float32)).sum())
        if wrong:
            name = ".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)
            raise InputError(
                f"{noun}: {wrong} of the {values.size} numbers of {name} are NaN or infinite; "
                f"{mend}"
            )
