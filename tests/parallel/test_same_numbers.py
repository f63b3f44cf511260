"""Devices, shards and data sources change training's speed, not its numbers.

``helpers.same`` says which differences count as the same.
"""

import re

import jax
import numpy as np
import pytest
from helpers.run import compiled, config, train
from helpers.same import SGD, check_same

from ddaepp_jax import config as schema
from ddaepp_jax.training.sharding import path_names


@pytest.fixture(scope="module")
def one_device():
    return train(config(**SGD))


@pytest.mark.parametrize(
    "mesh",
    [(2, 4, 1), *(pytest.param(mesh, marks=pytest.mark.slow) for mesh in ((8, 1, 1), (1, 8, 1)))],
    ids=str,
)
def test_eight_devices(one_device, mesh):
    check_same(one_device, train(config(**SGD), mesh))


@pytest.mark.slow
def test_tensor_axis(one_device):
    rules = (
        ("qkv/kernel|fc1/kernel", ("", "tensor")),
        ("proj/kernel|fc2/kernel", ("tensor", "")),
        (".*", ("fsdp",)),
    )
    check_same(one_device, train(config(**SGD, mesh__rules=rules), (2, 2, 2)))


def dit(**model):
    """Returns the config of a small self-conditioned LightningDiT.

    It trains for 10 steps, as the gates of its blocks are closed at first.
    """
    tiny = config(**SGD | dict(train__steps=10))
    fields = dict(
        width=32, depth=4, num_heads=2, bottleneck="block_2", rope=True, rmsnorm=True, swiglu=True
    )
    tiny.model = schema.dit(**fields | model)
    tiny.diffusion = schema.flow(cosine_loss=False)
    tiny.optimizer.weight_decay = 0.0
    tiny.sampling.sampler = "euler"
    return tiny


@pytest.mark.slow
def test_dit_scanned_recomputed_and_on_eight_devices():
    looped = train(dit(scan=False))
    check_same(looped, train(dit(scan=True)))
    check_same(looped, train(dit(scan=True, remat="block"), (2, 4, 1)))


@pytest.mark.slow
def test_a_steps_flops_are_shared_among_devices():
    whole, _, _ = compiled(dit(scan=True))
    shared, _, _ = compiled(dit(scan=True), (2, 4, 1))
    assert shared.flops == whole.flops / 8 > 0


def test_streamed_data(one_device):
    check_same(one_device, train(config(**SGD, data__device_bytes=0), (8, 1, 1)))


def distilled():
    tiny = config(**SGD, model__augment_dim=9)
    tiny.train.batch_size = 64
    tiny.objectives.distillation.update(weight=0.1, hidden=24, embedding=12, geometric=0.5)
    return tiny


@pytest.fixture(scope="module")
def distilled_on_one():
    return train(distilled())


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(2, 1, 1), (2, 4, 1)], ids=str)
def test_self_distillation_on_more_devices(distilled_on_one, mesh):
    """Batch norms and negatives use the whole batch; the teacher is the same too."""
    other = train(distilled(), mesh)
    check_same(distilled_on_one, other)
    (start, end, _), (_, other_end, _) = distilled_on_one, other
    flat = lambda tree: np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
    teacher, other_teacher = (flat(state.ema["distillation"]) for state in (end, other_end))
    moved = np.linalg.norm(teacher - flat(start.params))
    assert np.linalg.norm(other_teacher - teacher) <= 1e-4 * moved


REAL = dict(train__steps=5, model__class_conditional=True)


@pytest.mark.slow
def test_the_real_optimizer_on_eight_devices():
    _, _, one = train(config(**REAL))
    _, _, eight = train(config(**REAL), (2, 4, 1))
    np.testing.assert_allclose(one, eight, rtol=1e-5)


@pytest.mark.slow
def test_no_unsharded_parameters_exist():
    """Under FSDP each device holds a fourth of the kernels and embeddings and of their moments and
    averages.

    Leaves without a dimension that the four devices divide are exceptions. Biases and scales, which
    are whole, are few.
    """
    program, _, _ = compiled(config(**REAL), (2, 4, 1))
    state = program.init()
    for tree in (state.params["network"], state.ema["0.999"]["network"], state.opt_state):
        sizes = {"sharded": 0, "whole": 0}
        for name, leaf in zip(path_names(tree), jax.tree.leaves(tree), strict=True):
            sharded = re.search("kernel|embed", name) and any(size % 4 == 0 for size in leaf.shape)
            assert leaf.addressable_shards[0].data.size == leaf.size // (4 if sharded else 1), name
            sizes["sharded" if sharded else "whole"] += leaf.size
        assert sizes["whole"] < 0.05 * sizes["sharded"]
