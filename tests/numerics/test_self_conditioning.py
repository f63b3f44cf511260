"""What all backbones do alike: stop after a block, and take the bottleneck's number as data."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from helpers.drawn import drawn_inputs

from ddaepp_jax.models import dit, unet, uvit
from ddaepp_jax.models.dit import DiT
from ddaepp_jax.models.self_conditioning import OneOf, SelfConditioning
from ddaepp_jax.models.unet import UNet
from ddaepp_jax.models.uvit import UViT
from ddaepp_jax.training.optimizer import make_optimizer

TRANSFORMER = dict(patch_size=2, width=16, depth=4, num_heads=2, self_condition=True)
LEVELS = dict(channels=64, mults=(1, 2), attend=(False, True), blocks=1, self_condition=True)
# A network, the names of its blocks, and those of one width that can be its bottleneck.
CASES = {
    "uvit": (UViT(**TRANSFORMER), uvit.block_names(4), ("in_1", "mid", "out_1")),
    "uvit, remat, cls": (
        UViT(**TRANSFORMER, remat=True, pool="cls"),
        uvit.block_names(4),
        ("in_2", "out_1"),
    ),
    "unet, narrow": (UNet(**LEVELS), unet.block_names((1, 2), 1), ("in_1", "out_3")),
    "unet, wide": (UNet(**LEVELS), unet.block_names((1, 2), 1), ("mid", "out_2")),
    "dit, scan": (DiT(**TRANSFORMER), dit.block_names(4), ("block_1", "block_3", "block_4")),
    "dit, loop": (DiT(**TRANSFORMER, scan=False), dit.block_names(4), ("block_1", "block_4")),
}


def inputs():
    return jnp.asarray(drawn_inputs("x", (2, 4, 8, 3))), jnp.array([0.3, 0.7])


def drawn(network):
    """Parameters, none zero; scales of norms around 1."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs())["params"]

    def leaf(path, like):
        name = jax.tree_util.keystr(path)
        return jnp.asarray(name.endswith("['scale']") + 0.4 * drawn_inputs(name, like.shape))

    return jax.tree_util.tree_map_with_path(leaf, shapes)


@pytest.mark.parametrize("case", ["uvit", "unet, wide", "dit, scan", "dit, loop"])
def test_a_pass_that_stops_has_the_features_of_the_whole_one(case):
    network, names, bottlenecks = CASES[case]
    params = drawn(network.clone(bottleneck=bottlenecks[0]))
    captures = [
        (names[1],),
        (names[2], names[0]),
        ("bottleneck",),
        ("bottleneck", names[2]),
        (names[-1],),
    ]
    for bottleneck in (bottlenecks[0], OneOf(bottlenecks, jnp.int32(1))):

        @jax.jit
        def passes(params, bottleneck=bottleneck):
            apply = lambda **how: network.clone(bottleneck=bottleneck).apply(
                {"params": params}, *inputs(), **how
            )
            return apply()[1], [apply(capture=capture, stop=True) for capture in captures]

        whole, stopped = passes(params)
        for capture, (out, features) in zip(captures, stopped, strict=True):
            assert out is None and list(features) == list(capture)
            for name, feature in features.items():
                np.testing.assert_allclose(
                    feature, whole[name], rtol=1e-5, atol=1e-6 * np.abs(whole[name]).max()
                )


@pytest.mark.parametrize("case", ["uvit", "unet, wide", "dit, loop"])
def test_a_pass_that_stops_costs_its_blocks_alone(case):
    network, names, bottlenecks = CASES[case]
    network = network.clone(bottleneck=bottlenecks[0])

    def flops(**how):
        """As written, before the compiler leaves out what nobody reads."""
        apply = lambda p: network.apply({"params": p}, *inputs(), **how)
        return jax.jit(apply).lower(drawn(network)).cost_analysis()["flops"]

    costs = [0, *(flops(capture=(name,), stop=True) for name in names), flops()]
    blocks = np.diff(costs)
    assert blocks.min() > 0 and costs[1] < 0.4 * costs[-1], costs
    if case != "unet, wide":  # blocks of one size, but for the patches' embedding and the skips
        assert blocks[1:-1].max() < 1.7 * blocks[1:-1].min()
    before, after = (
        flops(capture=(bottlenecks[0], *more), stop=True) for more in ((), ("bottleneck",))
    )
    assert (
        after - before < 0.01 * before
    )  # the pool alone: nothing follows that would be conditioned


def test_a_scan_that_stops_is_shorter():
    network, _, _ = CASES["dit, scan"]
    params = drawn(network.clone(bottleneck="block_2"))

    def scan(bottleneck, capture):
        apply = lambda p: network.clone(bottleneck=bottleneck).apply(
            {"params": p}, *inputs(), capture=capture, stop=True
        )
        (found,) = (e for e in jax.make_jaxpr(apply)(params).eqns if e.primitive.name == "scan")
        return found.params["length"], "cond" in str(found.params["jaxpr"])

    assert scan("block_2", ("block_3",)) == (3, True)
    assert scan("block_2", ("block_2",)) == (2, False) and scan("block_3", ("block_1",)) == (
        1,
        False,
    )


def test_stopping_needs_to_know_where():
    network = UViT(**TRANSFORMER)
    with pytest.raises(ValueError, match=r"stop: .*capture"):
        network.apply({"params": drawn(network)}, *inputs(), stop=True)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_one_of_several_is_the_named_one(case):
    """Output, bottleneck and gradients by every parameter; and the same tree and initial values
    whoever it is.
    """
    network, _, names = CASES[case]
    params = drawn(network.clone(bottleneck=names[0]))
    probe = jnp.asarray(drawn_inputs("probe", (2, 4, 8, 3)))

    def outcome(params, bottleneck):
        def value(params):
            out, features = network.clone(bottleneck=bottleneck).apply(
                {"params": params}, *inputs()
            )
            return jnp.sum(out * probe), (out, features["bottleneck"])

        return jax.grad(value, has_aux=True)(params)

    def check(ours, theirs, least=0.0):
        assert np.abs(theirs).max() > least
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * max(np.abs(theirs).max(), 1e-3 * size))

    searched = jax.jit(lambda params, number: outcome(params, OneOf(names, number)))
    outs = []
    for number, name in enumerate(names):
        gradient, results = searched(params, number)
        expected, expected_results = jax.jit(lambda p, name=name: outcome(p, name))(params)
        outs.append(results[0])
        size = (
            0.0  # rounding is that of a leaf's largest number, but where a gradient is truly zero
        )
        jax.tree.map(check, results, expected_results)
        jax.tree.map(check, gradient["self_conditioning"], expected["self_conditioning"])
        size = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
        jax.tree.map(partial(check, least=-1.0), gradient, expected)
    for one, other in itertools.combinations(outs, 2):
        assert np.abs(one - other).max() > 1e-3

    def start(bottleneck):
        """Shapes, and the values of self-conditioning alone: to draw all takes long to compile."""
        init = lambda key: network.clone(bottleneck=bottleneck, projection="mlp").init(
            key, *inputs()
        )["params"]
        first = jax.jit(lambda key: init(key)["self_conditioning"])(jax.random.key(0))
        return jax.eval_shape(init, jax.random.key(0)), first

    shapes, first = start(OneOf(names, jnp.int32(1)))
    assert np.abs(first["hidden"]["kernel"]).max() > 0
    for name in names:
        own_shapes, own = start(name)
        assert own_shapes == shapes
        jax.tree.map(np.testing.assert_array_equal, own, first)


@pytest.mark.parametrize("time_scale", [True, False])
@pytest.mark.parametrize("projection", ["linear", "mlp"])
def test_the_projection_and_its_scale(projection, time_scale):
    """Against float64, with every parameter drawn; and how it starts: P at zero, s at one."""
    module = SelfConditioning(6, projection, time_scale)
    pooled, time = (
        jnp.asarray(drawn_inputs(name, shape))
        for name, shape in (("pooled", (3, 5)), ("time", (3, 4)))
    )
    start = module.init(jax.random.key(0), pooled, time)["params"]
    assert (start["project"]["kernel"] == 0).all() and (start["project"]["bias"] == 0).all()
    if time_scale:
        assert (start["scale"]["kernel"] == 0).all() and (start["scale"]["bias"] == 0).all()
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(drawn_inputs(jax.tree_util.keystr(path), leaf.shape)), start
    )
    f64 = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    dense = lambda name, a: a @ f64[name]["kernel"] + f64[name]["bias"]
    silu = lambda a: a / (1 + np.exp(-a))
    h, t = np.asarray(pooled, np.float64), np.asarray(time, np.float64)
    h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-5)
    h = h * f64["norm"]["scale"] + f64["norm"]["bias"]
    expected = dense("project", silu(dense("hidden", h)) if projection == "mlp" else h)
    if time_scale:
        expected = expected * (1 + dense("scale", silu(t)))
    np.testing.assert_allclose(
        module.apply({"params": params}, pooled, time), expected, rtol=1e-4, atol=1e-4
    )


def test_the_scale_starts_at_one_and_weight_decay_leaves_it_there():
    """Exactly: s(t) P(h) is P(h) after steps of AdamW in which the scale has no gradient."""
    module, plain = SelfConditioning(6), SelfConditioning(6, time_scale=False)
    inputs = (
        jnp.asarray(drawn_inputs("pooled", (3, 5))),
        jnp.asarray(drawn_inputs("time", (3, 4))),
    )
    params = module.init(jax.random.key(0), *inputs)["params"]
    params["project"]["kernel"] = jnp.asarray(drawn_inputs("project", (5, 6)))
    optimizer = make_optimizer(
        name="adamw",
        learning_rate=optax.constant_schedule(0.1),
        b1=0.9,
        b2=0.999,
        weight_decay=0.5,
        decay_mask="all",
        clip_norm=1.0,
    )
    state = optimizer.init(params)
    for _ in range(4):
        own = {name: leaf for name, leaf in params.items() if name != "scale"}
        expected = plain.apply({"params": own}, *inputs)
        assert np.abs(expected).max() > 0.1
        np.testing.assert_array_equal(module.apply({"params": params}, *inputs), expected)
        updates, state = optimizer.update(jax.tree.map(jnp.zeros_like, params), state, params)
        params = optax.apply_updates(params, updates)


@pytest.mark.parametrize("case", ["uvit", "unet, narrow", "dit, scan"])
def test_gradients_flow_through_the_pooled_feature(case):
    """Those of the first layer are others where the pooled feature that conditions is held
    fixed.
    """
    network, _, names = CASES[case]
    network, probe = (
        network.clone(bottleneck=names[0]),
        jnp.asarray(drawn_inputs("probe", (2, 4, 8, 3))),
    )
    first = "image_proj" if case.startswith("unet") else "patch_embed"

    def gradient(params, fixed):
        def given(next_fun, args, kwargs, context):
            if (
                fixed
                and isinstance(context.module, SelfConditioning)
                and context.method_name == "__call__"
            ):
                args = jax.lax.stop_gradient(args[0]), *args[1:]
            return next_fun(*args, **kwargs)

        with nn.intercept_methods(given):
            value = lambda params: jnp.sum(network.apply({"params": params}, *inputs())[0] * probe)
            return jax.grad(value)(params)[first]["kernel"]

    flowing, stopped = jax.jit(lambda params: [gradient(params, fixed) for fixed in (False, True)])(
        drawn(network)
    )
    assert np.abs(flowing - stopped).max() > 1e-2 * np.abs(flowing).max()
