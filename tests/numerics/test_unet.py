"""The UNet against the reference implementation's numbers, and self-conditioning, labels and
dropout in it.
"""

from collections import OrderedDict
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from helpers.drawn import drawn_inputs, drawn_params

from ddaepp_jax.models.remat import POLICIES
from ddaepp_jax.models.self_conditioning import SelfConditioning
from ddaepp_jax.models.unet import Block, UNet, block_names
from ddaepp_jax.released import ddae_unet

GOLDEN = Path(__file__).parents[1] / "golden"
DDPMPP = dict(ch_mults=(2, 2, 2), is_attn=(False, True, False), n_blocks=4, use_res_for_updown=True)
CASES = {  # arguments of the reference's class
    "unet_plain": dict(
        image_shape=(3, 8, 8), n_channels=32, ch_mults=(1, 2), is_attn=(False, True), n_blocks=1
    ),
    "unet_options": dict(
        image_shape=(1, 4, 8),
        n_channels=32,
        ch_mults=(2, 1),
        is_attn=(True, True),
        attn_channels_per_head=16,
        n_blocks=2,
        use_res_for_updown=True,
        augment_dim=9,
    ),
    "unet_rgb3": dict(
        image_shape=(3, 8, 8),
        n_channels=32,
        ch_mults=(1, 1, 2),
        is_attn=(True, False, True),
        n_blocks=1,
    ),
    "unet_cifar": dict(),
    "unetpp_cifar": dict(**DDPMPP, augment_dim=9),
}
MARKS = {
    "unet_plain": pytest.mark.smoke,
    "unet_cifar": pytest.mark.slow,
    "unetpp_cifar": pytest.mark.slow,
}


def relative_error(ours, theirs):
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def shapes_of(network, x, t):
    return jax.eval_shape(network.init, jax.random.key(0), x, t)["params"]


def count(shapes):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("case", [pytest.param(case, marks=MARKS.get(case, ())) for case in CASES])
def test_output_and_features_equal_the_reference(case):
    golden = np.load(GOLDEN / f"{case}.npz")
    network = ddae_unet.Arguments(**CASES[case]).network()
    x, t = jnp.asarray(golden["x"]), jnp.asarray(golden["t"])
    label = jnp.asarray(golden["augment_label"]) if "augment_label" in golden else None
    shapes = shapes_of(network, x, t)
    params = drawn_params(
        shapes, partial(ddae_unet.reference_name, network), partial(ddae_unet.arranged, network)
    )
    out, features = jax.jit(network.apply)({"params": params}, x, t, None, label)
    # Rounding; an epsilon of 1e-6 in the norms, Flax's default, would be 2e-5 in `unet_plain`.
    assert relative_error(out, golden["out"]) < 8e-6
    names = block_names(network.mults, network.blocks)
    assert list(features) == [*names, "bottleneck"]
    for name in names:
        ours = features[name].mean((1, 2)) if "cifar" in case else features[name]
        assert relative_error(ours, golden[name]) < 8e-6, name
    assert (
        relative_error(
            features["bottleneck"], np.asarray(features[network.bottleneck]).mean((1, 2))
        )
        < 1e-6
    )
    if "num_params" in golden:
        assert count(shapes) == int(golden["num_params"])


@pytest.mark.parametrize(
    ("arguments", "bottleneck", "plain", "added"),
    [(dict(), "out_6", 35_746_307, 0.0110), (DDPMPP, "out_5", 56_524_291, 0.0070)],
    ids=["DDPM", "DDPM++"],
)
def test_parameter_counts_are_the_papers(arguments, bottleneck, plain, added):
    network = ddae_unet.Arguments(**arguments).network()
    inputs = (jnp.zeros((1, 32, 32, 3)), jnp.zeros((1,)))
    assert network.bottleneck == bottleneck
    assert count(shapes_of(network, *inputs)) == plain
    conditioned = count(shapes_of(network.clone(self_condition=True), *inputs))
    assert abs(conditioned / plain - 1 - added) < 5e-5


# In a block of 32 channels every channel is a group of the norm after the condition, which takes it
# out again.
ONE_LEVEL = dict(channels=64, mults=(1,), attend=(True,), blocks=1, bottleneck="mid")
TWO_LEVELS = dict(ONE_LEVEL, mults=(1, 2), attend=(False, True), residual_updown=True)


def small(sizes=ONE_LEVEL, **fields):
    """A small network with every parameter drawn (none zero), and inputs; height and width are
    separate numbers.
    """
    network = UNet(**sizes | fields)
    x, t = jnp.asarray(drawn_inputs("x", (2, 4, 2, 3))), jnp.array([0.011, 0.7])
    return network, drawn_params(shapes_of(network, x, t), ".".join), x, t


@partial(jax.jit, static_argnames=("network", "train"))
def apply(network, params, *inputs, train=False, dropout=None):
    rngs = None if dropout is None else {"dropout": dropout}
    return network.apply({"params": params}, *inputs, train=train, rngs=rngs)


def plain_of(params):
    return {name: leaf for name, leaf in params.items() if name != "self_conditioning"}


@pytest.mark.parametrize(
    "fields",
    [dict(bottleneck="in_1"), dict(bottleneck="out_1", projection="mlp", time_scale=False)],
    ids=str,
)
def test_self_conditioned_network_starts_as_the_plain_one(fields):
    plain, params, x, t = small()
    network = plain.clone(self_condition=True, **fields)
    shapes = shapes_of(network, x, t)
    assert shapes.keys() - params.keys() == {"self_conditioning"}
    assert jax.tree.map(jnp.shape, plain_of(shapes)) == jax.tree.map(jnp.shape, params)
    start = jax.jit(lambda: network.init(jax.random.key(0), x, t)["params"]["self_conditioning"])()
    out, features = apply(network, {**params, "self_conditioning": start}, x, t)
    np.testing.assert_array_equal(out, apply(plain, params, x, t)[0])
    np.testing.assert_allclose(
        features["bottleneck"], features[network.bottleneck].mean((1, 2)), rtol=1e-5, atol=1e-6
    )


def test_conditioning_is_of_the_blocks_after_k_and_what_the_module_says():
    network, params, x, t = small(TWO_LEVELS, self_condition=True)

    @jax.jit
    def conditions(params):
        """Each block's condition, the changes of resolution among them; and the features."""
        seen = {}

        def keep(next_fun, args, kwargs, context):
            if isinstance(context.module, Block) and context.method_name == "__call__":
                seen[context.module.name] = args[1]
            return next_fun(*args, **kwargs)

        with nn.intercept_methods(keep):
            return seen, network.apply({"params": params}, x, t)[1]

    seen, features = conditions(params)
    before, after = (
        ["in_1", "down_1", "in_2", "mid_1", "mid_2"],
        ["out_1", "out_2", "up_1", "out_3", "out_4"],
    )
    assert set(seen) == {*before, *after}
    time = seen["in_1"]
    conditioning = SelfConditioning(time.shape[-1])
    added = conditioning.apply(
        {"params": params["self_conditioning"]}, features["mid"].mean((1, 2)), time
    )
    assert np.abs(added).max() > 0.1
    for name in before:
        np.testing.assert_array_equal(seen[name], time)
    for name in after:
        np.testing.assert_allclose(seen[name], time + added, rtol=1e-5, atol=1e-5)

    _, plain = apply(network.clone(self_condition=False), plain_of(params), x, t)
    changes = {
        name: np.abs(features[name] - plain[name]).max()
        for name in block_names(network.mults, network.blocks)
    }
    assert max(changes[name] for name in ("in_1", "in_2", "mid")) < 1e-5
    assert min(changes[name] for name in ("out_1", "out_2", "out_3", "out_4")) > 1e-2


@pytest.mark.slow
def test_gradient_flows_through_the_pooled_feature():
    """The gradient by an early block, whose influence goes through the pooled feature too, is what
    differences say.
    """
    with jax.enable_x64(True):
        network, params, x, t = small(self_condition=True, dtype=jnp.float64)
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        probe = jax.random.normal(jax.random.key(3), x.shape, jnp.float64)

        def value(shift, through):
            """A scalar of the output, as a function of a shift of one bias; ``through``: of P's
            output scale.
            """
            inner = params["in_1"]["conv2"]
            moved = {
                **params,
                "in_1": {**params["in_1"], "conv2": {**inner, "bias": inner["bias"] + shift}},
            }
            moved["self_conditioning"] = jax.tree.map(
                lambda leaf: through * leaf, params["self_conditioning"]
            )
            return jnp.sum(network.apply({"params": moved}, x.astype(jnp.float64), t)[0] * probe)

        f, h = jax.jit(value), 1e-2  # the softmax is in float32 even here
        gradient = jax.jit(jax.grad(value))
        ours = gradient(jnp.zeros((64,)), 1.0)
        slope = jnp.linalg.norm(ours)
        at = {k: f(k * h * ours / slope, 1.0) for k in (-2, -1, 1, 2)}
        numeric = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)  # fourth order
        np.testing.assert_allclose(slope, numeric, rtol=1e-4)
        assert jnp.linalg.norm(ours - gradient(jnp.zeros((64,)), 0.0)) > 0.05 * slope


def test_labels_default_to_the_null_class_and_augment_label_to_zero():
    network, params, x, t = small(num_classes=3, augment_dim=9)
    assert params["label_embed"]["embedding"].shape == (4, 256)
    out = lambda y, a: np.asarray(
        apply(network, params, x, t, jnp.array(y), jnp.full((2, 9), a))[0]
    )
    null, other = out([3, 3], 0.0), out([0, 3], 0.0)
    np.testing.assert_array_equal(null, apply(network, params, x, t)[0])
    assert np.abs(null - other)[0].max() > 1e-3
    np.testing.assert_array_equal(null[1], other[1])
    assert np.abs(null - out([3, 3], 1.0)).max() > 1e-3


def test_dropout_is_of_training_only():
    network, params, x, t = small(dropout=0.5)
    keys = [jax.random.key(i) for i in range(2)]
    clean = np.asarray(apply(network, params, x, t)[0])
    np.testing.assert_array_equal(clean, apply(network, params, x, t, dropout=keys[0])[0])
    np.testing.assert_array_equal(
        clean, apply(network.clone(dropout=0.0), params, x, t, train=True)[0]
    )
    first, second, again = (
        np.asarray(apply(network, params, x, t, train=True, dropout=k)[0]) for k in keys + keys[:1]
    )
    np.testing.assert_array_equal(first, again)
    assert min(np.abs(first - clean).max(), np.abs(first - second).max()) > 1e-2


def test_shapes():
    network = UNet(
        channels=32,
        mults=(1, 2, 3),
        attend=(False, False, True),
        blocks=2,
        head_channels=48,
        bottleneck="mid",
    )
    x, t = jnp.zeros((2, 4, 12, 5)), jnp.zeros((2,))
    out, features = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), x, t)[0])
    assert isinstance(features, OrderedDict) and out.shape == x.shape
    assert list(features) == [
        *(f"in_{i}" for i in range(1, 7)),
        "mid",
        *(f"out_{i}" for i in range(1, 10)),
        "bottleneck",
    ]
    levels = [(2, 4, 12, 32), (2, 2, 6, 64), (2, 1, 3, 96)]
    expected = (
        np.repeat(levels, 2, 0).tolist()
        + [list(levels[2])]
        + np.repeat(levels[::-1], 3, 0).tolist()
    )
    assert [list(f.shape) for f in features.values()] == [*expected, [2, 96]]


def test_an_unknown_bottleneck_is_refused():
    with pytest.raises(ValueError, match=r"bottleneck: .*'out_9'.*mid"):
        shapes_of(
            UNet(**TWO_LEVELS | dict(bottleneck="out_9")), jnp.zeros((1, 8, 8, 3)), jnp.zeros((1,))
        )


def test_initialisation_is_pytorchs_default():
    """Kernels and biases of convolutions and linear layers, the attention's too, uniform within 1 /
    sqrt(fan_in).
    """
    network, _, x, t = small(TWO_LEVELS, residual_updown=False, num_classes=3, augment_dim=9)
    places = ["image_proj", "augment_embed", "label_embed", "down_1", "in_2"]

    @jax.jit
    def init(key):  # of the places alone: a random draw is slow to compile
        params = network.init(key, x, t)["params"]
        return {place: params[place] for place in places}

    params = flatten_dict(init(jax.random.key(0)))
    kernels = {path[:-1]: leaf for path, leaf in params.items() if path[-1] == "kernel"}
    assert len(kernels) == 9
    for path, kernel in kernels.items():
        bound = np.prod(kernel.shape[:-1]) ** -0.5
        bias = params.get((*path, "bias"), kernel)
        assert max(np.abs(kernel).max(), np.abs(bias).max()) <= bound * (1 + 1e-6), path
        assert (
            abs(np.square(kernel).mean() * 3 / bound**2 - 1) < 0.2 and np.std(bias) > bound / 3
        ), path
    assert abs(np.std(params["label_embed", "embedding"]) - 1) < 0.1


def test_bfloat16_keeps_float32_parameters_and_output():
    network, params, x, t = small(self_condition=True, dtype=jnp.bfloat16)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(shapes_of(network, x, t))}
    assert dtypes == {jnp.dtype("float32")}
    out, features = apply(network, params, x, t)
    exact, _ = apply(network.clone(dtype=jnp.float32), params, x, t)
    assert features["mid"].dtype == jnp.bfloat16
    assert out.dtype == features["bottleneck"].dtype == jnp.float32
    assert relative_error(out, np.asarray(exact)) < 0.03


@pytest.mark.slow
def test_remat_gives_the_same_gradients():
    """Of a training pass: what is recomputed drops out the same."""

    @partial(jax.jit, static_argnums=0)
    def gradient(network, params, x, t):
        rngs = {"dropout": jax.random.key(0)}
        loss = lambda p: jnp.mean(
            jnp.square(network.apply({"params": p}, x, t, train=True, rngs=rngs)[0])
        )
        return jax.grad(loss)(params)

    network, *inputs = small(self_condition=True, blocks=0)
    plain = gradient(network, *inputs)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(plain))
    for remat in list(POLICIES)[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * scale),
            gradient(network.clone(remat=remat), *inputs),
            plain,
        )


def test_the_scale_of_the_condition_is_of_the_time_without_the_label():
    """What is added at the bottleneck is s(t) P(h): the label is in h and in the condition, but not
    in s.
    """
    network, params, x, t = small(self_condition=True, num_classes=3)

    @partial(jax.jit, static_argnames="network")
    def conditions(network, params, y):
        seen = {}

        def keep(next_fun, args, kwargs, context):
            if isinstance(context.module, Block) and context.method_name == "__call__":
                seen[context.module.name] = args[1]
            return next_fun(*args, **kwargs)

        with nn.intercept_methods(keep):
            return seen, network.apply({"params": params}, x, t, y)[1]["mid"].mean((1, 2))

    seen, pooled = conditions(network, params, jnp.array([0, 2]))
    time = seen["in_1"] - params["label_embed"]["embedding"][np.array([0, 2])]
    added = SelfConditioning(time.shape[-1]).apply(
        {"params": params["self_conditioning"]}, pooled, time
    )
    np.testing.assert_allclose(seen["out_1"] - seen["in_1"], added, rtol=1e-4, atol=1e-4)
