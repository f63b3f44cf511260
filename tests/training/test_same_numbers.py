"""Devices, sharding, remat, dispatches and the way of the data change speed, not numbers.

"The same" is the project's: SGD at learning rate 0.1 without warm-up, 5 steps, per leaf |p8 - p1| / |p1 - p0| <= 1e-4,
and one rounding beside (a norm's scale that went from 1 to 1.0001 is stored in units of 1.2e-7); with the real
optimizer, losses to 1e-5.
"""

import jax
import numpy as np
import pytest
from tiny import compiled, config, run

from ddaepp_jax import config as schema

SGD = dict(
    train__steps=5,
    optimizer__name="sgd",
    optimizer__learning_rate=0.1,
    optimizer__warmup_steps=0,
    optimizer__clip_norm=0.0,
    optimizer__schedule="constant",
    data__flip=True,
)


@pytest.fixture(scope="module")
def one_device():
    return run(config(**SGD))


def check_same(one, other):
    start, end, losses = one
    other_start, other_end, other_losses = other
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-7, atol=2e-7), start.params, other_start.params)
    np.testing.assert_allclose(losses, other_losses, rtol=1e-5)

    def leaf(p0, p1, p8):
        rounding = np.spacing(np.abs(p1).max())
        return max(np.linalg.norm(p8 - p1) - rounding, 0) / max(np.linalg.norm(p1 - p0), 1e-12)

    errors = jax.tree_util.tree_leaves_with_path(jax.tree.map(leaf, start.params, end.params, other_end.params))
    for path, error in errors:
        assert error <= 1e-4, (path, error)


@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 4, 1), (1, 8, 1)], ids=str)
def test_eight_devices(one_device, mesh):
    check_same(one_device, run(config(**SGD), mesh))


def test_tensor_axis(one_device):
    rules = (("qkv/kernel|fc1/kernel", ("", "tensor")), ("proj/kernel|fc2/kernel", ("tensor", "")), (".*", ("fsdp",)))
    check_same(one_device, run(config(**SGD, mesh__rules=rules), (2, 2, 2)))


def test_remat(one_device):
    check_same(one_device, run(config(**SGD, model__remat=True)))


def dit(**model):
    """A DiT as LightningDiT has it, conditioned, and its process; 10 steps, as at first its blocks are shut."""
    made = config(**SGD | dict(train__steps=10))
    fields = dict(width=32, depth=4, num_heads=2, bottleneck="block_2", rope=True, rmsnorm=True, swiglu=True)
    made.model, made.diffusion = schema.dit(**fields | model), schema.flow(cosine_loss=False)
    made.optimizer.weight_decay = 0.0
    made.sampling.sampler = "euler"
    return made


@pytest.mark.slow
def test_dit_scanned_recomputed_and_on_eight_devices():
    looped = run(dit(scan=False))
    check_same(looped, run(dit(scan=True)))
    check_same(looped, run(dit(scan=True, remat=True), (2, 4, 1)))


@pytest.mark.slow
def test_a_scans_flops_are_those_of_all_blocks():
    """XLA counts a loop's body once; throughput in FLOPs must not."""
    (looped, *_), (scanned, *_) = compiled(dit(scan=False)), compiled(dit(scan=True))
    assert 0.95 < scanned.flops / looped.flops < 1.05
    (shared, *_) = compiled(dit(scan=True), (8, 1, 1))
    assert shared.flops == pytest.approx(scanned.flops / 8, rel=0.01)


def test_streamed_data(one_device):
    check_same(one_device, run(config(**SGD, data__device_bytes=0), (2, 4, 1)))


def distilled():
    made = config(**SGD, model__augment_dim=9)
    made.train.batch_size = 64
    made.objectives.distillation.update(weight=0.1, hidden=24, embedding=12, geometric=0.5)
    return made


@pytest.fixture(scope="module")
def distilled_on_one():
    return run(distilled())


@pytest.mark.parametrize("mesh", [pytest.param((2, 1, 1), marks=pytest.mark.slow), (2, 4, 1)], ids=str)
def test_self_distillation_on_more_devices(distilled_on_one, mesh):
    """Batch norms and negatives are of the whole batch; the teacher is the same too."""
    other = run(distilled(), mesh)
    check_same(distilled_on_one, other)
    (start, end, _), (_, other_end, _) = distilled_on_one, other
    flat = lambda tree: np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
    teacher, others = (flat(state.ema["distillation"]) for state in (end, other_end))
    assert np.linalg.norm(others - teacher) <= 1e-4 * np.linalg.norm(teacher - flat(start.params))


def test_real_optimizer_on_eight_devices():
    fields = dict(train__steps=5, model__class_conditional=True)
    (_, _, one), (_, _, eight) = run(config(**fields)), run(config(**fields), (2, 4, 1))
    np.testing.assert_allclose(one, eight, rtol=1e-5)


def test_steps_a_dispatch_change_no_bit():
    fields = dict(train__steps=7)
    states = [run(config(**fields), stops=stops)[1] for stops in ((7,), (1, 2, 3, 4, 5, 6, 7), (3, 7))]
    for other in states[1:]:
        jax.tree.map(np.testing.assert_array_equal, states[0], other)


def test_parameters_are_sharded_from_birth():
    """Under FSDP every large leaf of parameters, moments and EMA lives in parts of an eighth, or a fourth."""
    program, _, _ = compiled(config(), (2, 4, 1))
    state = program.init()
    for tree in (state.params["network"], state.ema["0.999"]["network"], state.opt_state):
        big = [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim and any(size % 4 == 0 for size in leaf.shape)]
        assert big
        for leaf in big:
            assert leaf.addressable_shards[0].data.size == leaf.size // 4
