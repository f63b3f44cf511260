"""Rematerialisation and the steps per dispatch change training's speed, not its numbers."""

import jax
import numpy as np
import pytest
from helpers.run import NO_EVALS, PLAIN, compiled, config, train
from helpers.same import SGD, check_same

from ddaepp_jax import config as schema
from ddaepp_jax.models.remat import POLICIES


@pytest.mark.slow
@pytest.mark.parametrize("remat", list(POLICIES)[1:])
def test_remat(remat):
    check_same(train(config(**SGD)), train(config(**SGD, model__remat=remat)))


@pytest.mark.slow
def test_a_scans_memory_falls_with_what_is_computed_again():
    """A scan's "none" keeps the results of products with parameters.

    Without a scan, XLA's CPU backend does not compute again what it has.
    """
    made = config(**NO_EVALS, train__batch_size=256, optimizer__weight_decay=0.0)
    made.model = schema.dit(width=32, depth=8, num_heads=2, patch_size=1, bottleneck="block_2")
    sizes = {}
    for remat in POLICIES:
        made.model.remat = remat
        sizes[remat] = compiled(made)[0].memory
    assert sizes["none"] == sizes["dots_with_no_batch_dims_saveable"] < sizes["dots_saveable"]
    assert sizes["block"] < 0.7 * sizes["none"]


def test_steps_per_dispatch_change_no_bit():
    fields = PLAIN | dict(train__steps=7)
    _, state, _ = train(config(**fields), stops=(7,))
    for stops in ((1, 2, 3, 4, 5, 6, 7), (3, 7)):
        _, other, _ = train(config(**fields), stops=stops)
        jax.tree.map(np.testing.assert_array_equal, state, other)
