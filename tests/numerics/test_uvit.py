"""U-ViT against the reference implementation's numbers, and self-conditioning against its
definition.
"""

from collections import OrderedDict
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.drawn import drawn_inputs, drawn_params

from ddaepp_jax.models.remat import POLICIES
from ddaepp_jax.models.uvit import UViT, block_names
from ddaepp_jax.released import u_vit

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = {
    "plain": dict(patch_size=2, width=32, depth=4, num_heads=4),
    "labels": dict(patch_size=4, width=48, depth=2, num_heads=3, num_classes=10),
    "options": dict(
        patch_size=1,
        width=16,
        depth=4,
        num_heads=2,
        mlp_ratio=2.0,
        mlp_time_embed=True,
        qkv_bias=True,
        conv=False,
        skip=False,
    ),
    "cifar": dict(),
}
MARKS = {"plain": pytest.mark.smoke, "cifar": pytest.mark.slow}


def relative_error(ours, theirs):
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("case", [pytest.param(case, marks=MARKS.get(case, ())) for case in CASES])
def test_output_and_features_equal_the_reference(case):
    golden = np.load(GOLDEN / f"uvit_{case}.npz")
    network = UViT(**CASES[case])
    x, t = jnp.asarray(golden["x"]), jnp.asarray(golden["t"])
    y = jnp.asarray(golden["y"]) if "y" in golden else None
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, t, y)["params"]
    params = drawn_params(shapes, partial(u_vit.reference_name, network))
    out, features = jax.jit(network.apply)({"params": params}, x, t, y)
    # Rounding; an epsilon of 1e-6 in the norms, Flax's default, would be 6e-6 in `plain`.
    tolerance = 8e-6 if case == "labels" else 2e-6
    assert relative_error(out, golden["out"]) < tolerance
    names = block_names(network.depth)
    assert list(features) == [*names, "bottleneck"]
    for name in names:
        ours = features[name].mean(1) if case == "cifar" else features[name]
        assert relative_error(ours, golden[name]) < tolerance, name
    assert relative_error(features["bottleneck"], np.asarray(features["mid"]).mean(1)) < 1e-6


def test_parameter_count_is_the_papers():
    shapes = jax.eval_shape(
        UViT().init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)), jnp.zeros((1,))
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count == int(np.load(GOLDEN / "uvit_cifar.npz")["num_params"]) == 44_255_328


SMALL = dict(patch_size=2, width=16, depth=4, num_heads=2)


def small(**fields):
    """A small network with every parameter drawn (none zero), and inputs; height and width are
    separate numbers.
    """
    network = UViT(**SMALL | fields)
    x, t = jnp.asarray(drawn_inputs("x", (2, 8, 4, 3))), jnp.array([3.0, 700.0])
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, t)["params"]
    leaf = lambda path, like: jnp.asarray(
        0.3 * drawn_inputs(jax.tree_util.keystr(path), like.shape)
    )
    return network, jax.tree_util.tree_map_with_path(leaf, shapes), x, t


def apply(network, params, *inputs):
    return jax.jit(network.apply)({"params": params}, *inputs)


def leaf_paths(params):
    return {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}


@pytest.mark.parametrize(
    "fields",
    [dict(bottleneck="in_1"), dict(bottleneck="out_1", projection="mlp"), dict(time_scale=False)],
    ids=str,
)
def test_self_conditioned_network_starts_as_the_plain_one(fields):
    plain, shapes, x, t = small()
    network, conditioned_shapes, _, _ = small(self_condition=True, **fields)
    added = leaf_paths(conditioned_shapes) - leaf_paths(shapes)
    assert added and all("self_conditioning" in path for path in added)
    assert leaf_paths(shapes) < leaf_paths(conditioned_shapes)
    params = jax.jit(network.init)(jax.random.key(0), x, t)["params"]
    out, features = apply(network, params, x, t)
    params.pop("self_conditioning")
    np.testing.assert_array_equal(out, apply(plain, params, x, t)[0])
    np.testing.assert_allclose(
        features["bottleneck"], features[network.bottleneck].mean(1), rtol=1e-5, atol=1e-7
    )


def test_conditioning_is_what_the_module_says():
    """At the block after k the time token has moved by s(t) * P(LayerNorm(pooled)), computed here
    in float64 numpy.
    """
    network, params, x, t = small(self_condition=True, bottleneck="mid", skip=False)
    tokens = {}

    def keep(next_fun, args, kwargs, context):
        if context.module.name == "out_1" and context.method_name == "__call__":
            tokens["in"] = args[0]
        out = next_fun(*args, **kwargs)
        if context.module.name == "mid" and context.method_name == "__call__":
            tokens["before"] = out
        return out

    import flax.linen as nn

    with nn.intercept_methods(keep):
        _, features = network.apply({"params": params}, x, t)
    c = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["self_conditioning"])
    pooled = np.asarray(features["mid"], np.float64).mean(1)
    normed = (pooled - pooled.mean(-1, keepdims=True)) / np.sqrt(
        pooled.var(-1, keepdims=True) + 1e-5
    )
    h = normed * c["norm"]["scale"] + c["norm"]["bias"]
    angles = np.asarray(t, np.float64)[:, None] * np.exp(-np.log(10_000) * np.arange(8) / 8)
    time = np.concatenate([np.cos(angles), np.sin(angles)], -1)
    silu = time / (1 + np.exp(-time))
    added = (1 + silu @ c["scale"]["kernel"] + c["scale"]["bias"]) * (
        h @ c["project"]["kernel"] + c["project"]["bias"]
    )
    moved = np.asarray(tokens["in"] - tokens["before"])
    np.testing.assert_allclose(moved[:, 0], added, atol=2e-5)
    np.testing.assert_array_equal(moved[:, 1:], 0)


@pytest.mark.parametrize(
    "fields",
    [
        dict(),
        pytest.param(dict(projection="mlp"), marks=pytest.mark.slow),
        pytest.param(dict(time_scale=False), marks=pytest.mark.slow),
        pytest.param(dict(inject="token"), marks=pytest.mark.slow),
        pytest.param(dict(pool="cls"), marks=pytest.mark.slow),
        pytest.param(
            dict(bottleneck="in_2", num_classes=3, augment_dim=9, remat="block"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_gradient_flows_through_the_pooled_feature(fields):
    """With P non-zero, d out / d (pooled feature) is non-zero and is what finite differences say
    (in float64).
    """
    with jax.enable_x64(True):
        network, params, x, t = small(self_condition=True, dtype=jnp.float64, **fields)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        x, probe = x.astype(jnp.float64), jax.random.normal(jax.random.key(3), x.shape, jnp.float64)

        def value(shift, path):
            """A scalar of the output, as a function of a shift of one bias."""
            *modules, last = path
            shifted = jax.tree.map(lambda leaf: leaf, params)
            inner = shifted
            for module in modules:
                inner = inner[module]
            inner[last] += shift
            out, _ = network.apply({"params": shifted}, x, t)
            return jnp.sum(out * probe)

        # What the projection is fed; and an early block, whose influence goes through the pooled
        # feature too.
        for path in [("self_conditioning", "norm", "bias"), ("in_1", "mlp", "fc2", "bias")]:
            f, h = jax.jit(value, static_argnums=1), 2e-2  # the softmax is in float32 even here
            gradient = jax.jit(jax.grad(value), static_argnums=1)(jnp.zeros((16,)), path)
            slope = jnp.linalg.norm(gradient)
            at = {k: f(k * h * gradient / slope, path) for k in (-2, -1, 1, 2)}
            numeric = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)  # fourth order
            assert slope > 1e-3
            np.testing.assert_allclose(slope, numeric, rtol=1e-3)


def test_no_gradient_is_stopped():
    """The gradient by the early block differs from that of a network whose pooled feature is held
    fixed.
    """
    network, params, x, t = small(self_condition=True)

    def loss(params, zeroed):
        c = params["self_conditioning"]
        if zeroed:
            params = {**params, "self_conditioning": jax.tree.map(jnp.zeros_like, c)}
        return jnp.sum(network.apply({"params": params}, x, t)[0])

    with_path, without = (
        jax.jit(jax.grad(loss), static_argnums=1)(params, zeroed)["in_1"]["mlp"]["fc2"]["bias"]
        for zeroed in (False, True)
    )
    assert np.abs(np.asarray(with_path - without)).max() > 1e-4


def test_labels_default_to_the_null_class_and_augment_label_to_zero():
    network, params, x, t = small(num_classes=3, augment_dim=9)
    out = lambda y, a: np.asarray(apply(network, params, x, t, y, a)[0])
    null = out(None, None)
    np.testing.assert_array_equal(null, out(jnp.array([3, 3]), jnp.zeros((2, 9))))
    assert np.abs(null - out(jnp.array([0, 3]), None))[0].max() > 1e-3
    np.testing.assert_array_equal(null[1], out(jnp.array([0, 3]), None)[1])
    assert np.abs(null - out(None, jnp.ones((2, 9)))).max() > 1e-3


@pytest.mark.parametrize("inject", ["add", "token"])
def test_features_leave_extra_tokens_out(inject):
    network, params, x, t = small(
        self_condition=True,
        inject=inject,
        pool="cls",
        num_classes=3,
        augment_dim=9,
        bottleneck="in_2",
    )
    out, features = jax.eval_shape(network.apply, {"params": params}, x, t)
    assert isinstance(features, OrderedDict) and out.shape == x.shape and out.dtype == jnp.float32
    assert {f.shape for name, f in features.items() if name != "bottleneck"} == {(2, 8, 16)}
    assert features["bottleneck"].shape == (2, 16)


def test_bfloat16_keeps_float32_parameters_and_output():
    network, params, x, t = small(self_condition=True, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    out, features = apply(network, params, x, t)
    exact, _ = apply(UViT(**SMALL, self_condition=True), params, x, t)
    assert features["mid"].dtype == jnp.bfloat16
    assert out.dtype == features["bottleneck"].dtype == jnp.float32
    np.testing.assert_allclose(
        features["bottleneck"], np.asarray(features["mid"], np.float32).mean(axis=1), rtol=1e-6
    )
    assert relative_error(out, np.asarray(exact)) < 0.03


def test_remat_gives_the_same_gradients():
    def gradient(remat):
        network, params, x, t = small(self_condition=True, remat=remat)
        return jax.jit(
            jax.grad(lambda p: jnp.sum(jnp.square(network.apply({"params": p}, x, t)[0])))
        )(params)

    def check(plain, recomputed):  # to rounding, that of a leaf's largest number
        np.testing.assert_allclose(
            plain, recomputed, rtol=1e-5, atol=1e-6 * max(1, np.abs(plain).max())
        )

    plain = gradient("none")
    for remat in list(POLICIES)[1:]:
        jax.tree.map(check, plain, gradient(remat))


@pytest.mark.parametrize("inject", ["add", "token"])
def test_where_the_condition_enters(inject):
    """The time token is the last of four extra ones; a token of its own comes first, and skips have
    zeros there.
    """
    import flax.linen as nn

    network, params, x, t = small(
        depth=2,
        self_condition=True,
        inject=inject,
        bottleneck="in_1",
        pool="cls",
        num_classes=3,
        augment_dim=9,
    )

    @jax.jit
    def passed(params):
        """What the blocks are given and what they make of it."""
        given, made = {}, {}

        def keep(next_fun, args, kwargs, context):
            out = next_fun(*args, **kwargs)
            if context.method_name == "__call__" and context.module.name in block_names(2):
                given[context.module.name], made[context.module.name] = args, out
            return out

        with nn.intercept_methods(keep):
            network.apply({"params": params}, x, t)
        return given, made["in_1"]

    given, before = passed(params)
    tokens, (_, skip) = given["mid"][0], given["out_1"]
    if inject == "add":
        moved = np.abs(np.asarray(tokens - before)).max((0, 2))
        assert moved[3] > 1e-2 and np.delete(moved, 3).max() < 1e-6
        np.testing.assert_allclose(skip, before, atol=1e-6)
    else:
        assert np.abs(tokens[:, 0]).max() > 1e-2 and (np.asarray(skip)[:, 0] == 0).all()
        for whole in (tokens, skip):
            np.testing.assert_allclose(whole[:, 1:], before, atol=1e-6)


def test_a_token_of_its_own_starts_with_a_direction():
    """P starts at zero where its output is added, and not where it is a token."""
    inputs = jnp.zeros((1, 4, 4, 1)), jnp.zeros(1)
    for inject, zero in (("add", True), ("token", False)):
        network = UViT(**SMALL | dict(depth=2), self_condition=True, inject=inject)
        last = jax.jit(
            lambda n=network: n.init(jax.random.key(0), *inputs)["params"]["self_conditioning"][
                "project"
            ]
        )()
        assert (np.abs(last["kernel"]).max() == 0) == zero
