"""State dicts of reference implementations, drawn by name, without the implementations."""

from types import ModuleType
from typing import Any

import jax
import numpy as np
from drawn import drawn


def state_dict(family: ModuleType, **arguments: Any) -> dict[str, np.ndarray]:
    """The tensors of ``family``, one of ``ddaepp_jax.released``, for its class's arguments, in its names and layout."""
    module, shape = family.module(**arguments), family.image_shape(**arguments)
    x, t = jax.ShapeDtypeStruct((1, *shape), "float32"), jax.ShapeDtypeStruct((1,), "float32")
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.eval_shape(module.init, jax.random.key(0), x, t)):
        _, *names = (key.key for key in path)
        order = {4: (3, 2, 0, 1), 2: (1, 0)}[len(leaf.shape)] if names[-1] == "kernel" else range(len(leaf.shape))
        name = family.reference_name(module, tuple(names))
        tensors[name] = drawn(name, tuple(leaf.shape[axis] for axis in order))
    return tensors
