"""Rematerialisation and the steps per dispatch change training's speed, not its numbers."""

import jax
import numpy as np
import pytest
from helpers.run import PLAIN, config, train
from helpers.same import SGD, check_same


@pytest.mark.slow
def test_remat():
    check_same(train(config(**SGD)), train(config(**SGD, model__remat=True)))


def test_steps_per_dispatch_change_no_bit():
    fields = PLAIN | dict(train__steps=7)
    _, state, _ = train(config(**fields), stops=(7,))
    for stops in ((1, 2, 3, 4, 5, 6, 7), (3, 7)):
        _, other, _ = train(config(**fields), stops=stops)
        jax.tree.map(np.testing.assert_array_equal, state, other)
