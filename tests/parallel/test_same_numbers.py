"""Devices, shards and the way of the data change the speed of training, not its numbers (see
``helpers.same``).
"""

import jax
import numpy as np
import pytest
from helpers.run import compiled, config, train
from helpers.same import SGD, check_same

from ddaepp_jax import config as schema


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
    """A DiT as LightningDiT has it, conditioned, and its process; 10 steps, as at first its blocks
    are shut.
    """
    made = config(**SGD | dict(train__steps=10))
    fields = dict(
        width=32, depth=4, num_heads=2, bottleneck="block_2", rope=True, rmsnorm=True, swiglu=True
    )
    made.model, made.diffusion = schema.dit(**fields | model), schema.flow(cosine_loss=False)
    made.optimizer.weight_decay = 0.0
    made.sampling.sampler = "euler"
    return made


@pytest.mark.slow
def test_dit_scanned_recomputed_and_on_eight_devices():
    looped = train(dit(scan=False))
    check_same(looped, train(dit(scan=True)))
    check_same(looped, train(dit(scan=True, remat=True), (2, 4, 1)))


@pytest.mark.slow
def test_a_scans_flops_are_those_of_all_blocks():
    """XLA counts a loop's body once; throughput in FLOPs must not."""
    (looped, *_), (scanned, *_) = compiled(dit(scan=False)), compiled(dit(scan=True))
    assert 0.95 < scanned.flops / looped.flops < 1.05
    (shared, *_) = compiled(dit(scan=True), (8, 1, 1))
    assert shared.flops == pytest.approx(scanned.flops / 8, rel=0.01)


def test_streamed_data(one_device):
    check_same(one_device, train(config(**SGD, data__device_bytes=0), (8, 1, 1)))


def distilled():
    made = config(**SGD, model__augment_dim=9)
    made.train.batch_size = 64
    made.objectives.distillation.update(weight=0.1, hidden=24, embedding=12, geometric=0.5)
    return made


@pytest.fixture(scope="module")
def distilled_on_one():
    return train(distilled())


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(2, 1, 1), (2, 4, 1)], ids=str)
def test_self_distillation_on_more_devices(distilled_on_one, mesh):
    """Batch norms and negatives are of the whole batch; the teacher is the same too."""
    other = train(distilled(), mesh)
    check_same(distilled_on_one, other)
    (start, end, _), (_, other_end, _) = distilled_on_one, other
    flat = lambda tree: np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
    teacher, others = (flat(state.ema["distillation"]) for state in (end, other_end))
    assert np.linalg.norm(others - teacher) <= 1e-4 * np.linalg.norm(teacher - flat(start.params))


REAL = dict(train__steps=5, model__class_conditional=True)


@pytest.mark.slow
def test_the_real_optimizer_on_eight_devices():
    (_, _, one), (_, _, eight) = train(config(**REAL)), train(config(**REAL), (2, 4, 1))
    np.testing.assert_allclose(one, eight, rtol=1e-5)


@pytest.mark.slow
def test_parameters_are_sharded_from_birth():
    """Under FSDP every large leaf of parameters, moments and EMA lives in parts of an eighth, or a
    fourth.
    """
    program, _, _ = compiled(config(**REAL), (2, 4, 1))
    state = program.init()
    for tree in (state.params["network"], state.ema["0.999"]["network"], state.opt_state):
        big = [
            leaf
            for leaf in jax.tree.leaves(tree)
            if leaf.ndim and any(size % 4 == 0 for size in leaf.shape)
        ]
        assert big
        for leaf in big:
            assert leaf.addressable_shards[0].data.size == leaf.size // 4
