"""A batch that is taken in parts gives the numbers of the batch at once."""

import pytest
from helpers.run import config, train
from helpers.same import SGD, check_same

from ddaepp_jax import config as schema

NETWORKS = {
    "uvit": schema.uvit(width=32, depth=2, num_heads=2, patch_size=2, augment_dim=9),
    # With dropout, whose masks are those of the whole batch.
    "unet": schema.unet(
        channels=64,
        mults=(1,),
        attend=(False,),
        blocks=1,
        bottleneck="out_1",
        dropout=0.3,
        self_condition=False,
    ),
    "dit": schema.dit(width=32, depth=2, num_heads=2, bottleneck="block_1"),
}


def trained(name, parts, mesh=(1, 1, 1), **fields):
    """Trains a network in parts, with labels, of which some are dropped, and flips."""
    made = config(**SGD | dict(train__accumulate=parts) | fields)
    made.model = NETWORKS[name].copy_and_resolve_references()
    made.model.class_conditional = True
    made.optimizer.weight_decay = 0.0
    if name == "uvit":
        made.data.augment = 0.5
    return train(made, mesh)


@pytest.mark.parametrize(
    ("name", "parts", "mesh"),
    [
        ("uvit", 4, (1, 1, 1)),
        ("uvit", 2, (2, 4, 1)),
        pytest.param("unet", 2, (8, 1, 1), marks=pytest.mark.slow),
        pytest.param("dit", 8, (1, 8, 1), marks=pytest.mark.slow),
    ],
)
def test_the_same_numbers(name, parts, mesh):
    check_same(trained(name, 1), trained(name, parts, mesh))


@pytest.mark.slow
def test_the_real_optimizer_and_a_stream():
    fields = dict(optimizer__name="adamw", optimizer__learning_rate=1e-3)
    _, _, whole = trained("uvit", 1, **fields)
    _, _, in_parts = trained("uvit", 2, (8, 1, 1), data__device_bytes=0, **fields)
    assert in_parts == pytest.approx(whole, rel=1e-5)
