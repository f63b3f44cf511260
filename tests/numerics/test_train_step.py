"""Recomputation and the number of steps a dispatch change the speed of training, not its
numbers.
"""

import jax
import numpy as np
import pytest
from helpers.run import PLAIN, config, train
from helpers.same import SGD, check_same


@pytest.mark.slow
def test_remat():
    check_same(train(config(**SGD)), train(config(**SGD, model__remat=True)))


def test_steps_a_dispatch_change_no_bit():
    fields = PLAIN | dict(train__steps=7)
    states = [
        train(config(**fields), stops=stops)[1] for stops in ((7,), (1, 2, 3, 4, 5, 6, 7), (3, 7))
    ]
    for other in states[1:]:
        jax.tree.map(np.testing.assert_array_equal, states[0], other)
