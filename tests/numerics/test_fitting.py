"""A run's program takes a form that fits into the memory given, or is refused before it starts."""

import re

import pytest
from helpers.errors import expect_error
from helpers.run import NO_EVALS, config

from ddaepp_jax import build
from ddaepp_jax import config as schema
from ddaepp_jax.base import parallel
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.run.fitting import compile_fitting

ALL = 2**40  # bytes


def fitted(capacity, **fields):
    """Compiles a scanned network on one device of a capacity; returns its bytes and its form."""
    made = config(**NO_EVALS, optimizer__weight_decay=0.0, **fields)
    remat = made.model.remat
    made.model = schema.dit(width=32, depth=4, num_heads=2, patch_size=1, bottleneck="block_2")
    made.model.remat = remat
    data = build.dataset(made, made.data.split)
    learner = build.learner(made, data.image_shape, data.num_classes, 100)
    program, form = compile_fitting(made, learner, data, parallel.make_mesh((-1, 1, 1)), capacity)
    return program.memory, (form.remat, form.parts)


@pytest.mark.slow
def test_auto_recomputes_where_it_must_and_then_takes_parts():
    batch = dict(train__batch_size=256)
    most, form = fitted(ALL, model__remat="auto", train__accumulate=0, **batch)
    assert form == ("none", 1)
    block, form = fitted(ALL, model__remat="block", **batch)
    assert form == ("block", 1) and block < most
    assert fitted(most - 1, model__remat="auto", **batch) == (block, ("block", 1))
    least, form = fitted(block - 1, model__remat="auto", train__accumulate=0, **batch)
    assert form == ("block", 2) and least < block


@pytest.mark.slow
def test_a_batch_that_does_not_fit():
    needed, _ = fitted(ALL, train__batch_size=512)
    fits, _ = fitted(ALL, train__batch_size=256)
    capacity = (needed + fits) // 2
    with pytest.raises(InputError) as caught:
        fitted(capacity, train__batch_size=512)
    line = str(caught.value)
    with expect_error("train.batch_size: 512", "model.remat=block", "train.accumulate=2"):
        raise caught.value
    largest = int(re.search(r"at most (\d+) fit", line)[1])
    assert 320 <= largest <= 448
    assert fitted(capacity, train__batch_size=largest)[0] <= capacity
