"""What all backbones share: the tap, and the module of self-conditioning."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from helpers.drawn import drawn_inputs

from ddaepp_jax.models import dit, unet, uvit
from ddaepp_jax.models.dit import DiT
from ddaepp_jax.models.self_conditioning import SelfConditioning
from ddaepp_jax.models.unet import UNet
from ddaepp_jax.models.uvit import UViT
from ddaepp_jax.training.optimizer import make_optimizer

TRANSFORMER = dict(patch_size=2, width=16, depth=4, num_heads=2, self_condition=True)
LEVELS = dict(channels=64, mults=(1, 2), attend=(False, True), blocks=1, self_condition=True)
# A network and the names of its blocks.
CASES = {
    "uvit": (UViT(**TRANSFORMER, bottleneck="in_1"), uvit.block_names(4)),
    "unet": (UNet(**LEVELS, bottleneck="mid"), unet.block_names((1, 2), 1)),
    "unet, narrow": (UNet(**LEVELS, bottleneck="in_1"), unet.block_names((1, 2), 1)),
    "dit, scan": (DiT(**TRANSFORMER, bottleneck="block_1"), dit.block_names(4)),
    "dit, loop": (DiT(**TRANSFORMER, bottleneck="block_1", scan=False), dit.block_names(4)),
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


@pytest.mark.parametrize("case", ["uvit", "unet", "dit, scan", "dit, loop"])
def test_a_pass_that_stops_has_the_features_of_the_whole_one(case):
    network, names = CASES[case]
    captures = [
        (names[1],),
        (names[2], names[0]),
        ("bottleneck",),
        ("bottleneck", names[2]),
        (names[-1],),
    ]

    @jax.jit
    def passes(params):
        apply = lambda **how: network.apply({"params": params}, *inputs(), **how)
        return apply()[1], [apply(capture=capture, stop=True) for capture in captures]

    whole, stopped = passes(drawn(network))
    assert list(whole) == [*names, "bottleneck"]
    for capture, (out, features) in zip(captures, stopped, strict=True):
        assert out is None and list(features) == list(capture)
        for name, feature in features.items():
            np.testing.assert_allclose(
                feature, whole[name], rtol=1e-5, atol=1e-6 * np.abs(whole[name]).max()
            )


@pytest.mark.parametrize("case", ["uvit", "unet", "dit, loop"])
def test_a_pass_that_stops_costs_its_blocks_alone(case):
    network, names = CASES[case]

    def flops(**how):
        """As written, before the compiler leaves out what nobody reads."""
        apply = lambda p: network.apply({"params": p}, *inputs(), **how)
        return jax.jit(apply).lower(drawn(network)).cost_analysis()["flops"]

    costs = [0, *(flops(capture=(name,), stop=True) for name in names), flops()]
    blocks = np.diff(costs)
    assert blocks.min() > 0 and costs[1] < 0.4 * costs[-1], costs
    if case != "unet":  # blocks of one size, but for the patches' embedding and the skips
        assert blocks[1:-1].max() < 1.7 * blocks[1:-1].min()
    before, after = (
        flops(capture=(network.bottleneck, *more), stop=True) for more in ((), ("bottleneck",))
    )
    # The pool alone: nothing follows that would be conditioned.
    assert after - before < 0.01 * before


def test_a_scan_that_stops_is_shorter():
    params = drawn(CASES["dit, scan"][0])

    def scan(bottleneck, capture):
        """The scan's length, and its conditions: one for the capture, one for the bottleneck."""
        network = CASES["dit, scan"][0].clone(bottleneck=bottleneck)
        apply = lambda p: network.apply({"params": p}, *inputs(), capture=capture, stop=True)
        (scan,) = (e for e in jax.make_jaxpr(apply)(params).eqns if e.primitive.name == "scan")
        inner = [eqn.primitive.name for eqn in scan.params["jaxpr"].eqns]
        return scan.params["length"], inner.count("cond")

    assert scan("block_2", ("block_3",)) == (3, 2)
    assert scan("block_2", ("block_2",)) == (2, 1)
    assert scan("block_3", ("block_1",)) == (1, 1)


def test_stopping_needs_to_know_where():
    network = UViT(**TRANSFORMER)
    with pytest.raises(ValueError, match=r"stop: .*capture"):
        network.apply({"params": drawn(network)}, *inputs(), stop=True)


@pytest.mark.parametrize("case", ["uvit", "unet", "dit, scan"])
def test_unknown_names_are_refused(case):
    network, names = CASES[case]
    apply = lambda network, **how: jax.eval_shape(
        lambda p: network.apply({"params": p}, *inputs(), **how), drawn(CASES[case][0])
    )
    for stop in (False, True):
        with pytest.raises(ValueError, match=rf"capture: .*'nowhere'.*{names[0]}.*bottleneck"):
            apply(network, capture=("nowhere",), stop=stop)
    with pytest.raises(ValueError, match=rf"bottleneck: .*'nowhere'.*{names[0]}"):
        apply(network.clone(bottleneck="nowhere"))


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
    network, _ = CASES[case]
    probe = jnp.asarray(drawn_inputs("probe", (2, 4, 8, 3)))
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
