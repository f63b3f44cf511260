"""Check that two trainings give the same numbers.

The project defines "the same" as follows. SGD takes 5 steps at learning rate 0.1 without warm-up,
and for each leaf |p8 - p1| / |p1 - p0| <= 1e-4, with one rounding allowed (a norm's scale that went
from 1 to 1.0001 is stored in units of 1.2e-7). With the real optimizer, losses agree to 1e-5.
"""

import jax
import numpy as np

SGD = dict(
    train__steps=5,
    optimizer__name="sgd",
    optimizer__learning_rate=0.1,
    optimizer__warmup_steps=0,
    optimizer__clip_norm=0.0,
    optimizer__schedule="constant",
    data__flip=True,
)


def check_same(one, other):
    """Checks two trainings, each (initial state, final state, losses) as ``run.train`` returns."""
    start, end, losses = one
    other_start, other_end, other_losses = other
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-7, atol=2e-7),
        start.params,
        other_start.params,
    )
    np.testing.assert_allclose(losses, other_losses, rtol=1e-5)

    def leaf(p0, p1, p8):
        rounding = np.spacing(np.abs(p1).max())
        return max(np.linalg.norm(p8 - p1) - rounding, 0) / max(np.linalg.norm(p1 - p0), 1e-12)

    errors = jax.tree_util.tree_leaves_with_path(
        jax.tree.map(leaf, start.params, end.params, other_end.params)
    )
    for path, error in errors:
        assert error <= 1e-4, (path, error)
