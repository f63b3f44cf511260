"""DiT and LightningDiT against the reference implementations' numbers; scans, remat, capture,
self-conditioning.
"""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.drawn import drawn_inputs
from helpers.references import state_dict

from ddaepp_jax.convert import load_reference
from ddaepp_jax.models.attention import rotated
from ddaepp_jax.models.dit import DiT, block_names, position_embedding, rotation
from ddaepp_jax.models.remat import POLICIES
from ddaepp_jax.released import dit, lightningdit

GOLDEN = Path(__file__).parents[1] / "golden"
RELEASED = dict(use_swiglu=True, use_rope=True, use_rmsnorm=True)
CASES = {
    "dit_sigma": ("dit", dict(patch_size=2, hidden_size=32, depth=3, num_heads=4, num_classes=5)),
    "dit_plain": (
        "dit",
        dict(
            patch_size=4,
            hidden_size=48,
            depth=2,
            num_heads=3,
            mlp_ratio=2.0,
            num_classes=10,
            learn_sigma=False,
        ),
    ),
    "lightningdit_released": (
        "lightningdit",
        dict(patch_size=1, hidden_size=48, depth=3, num_heads=3, num_classes=7) | RELEASED,
    ),
    "lightningdit_options": (
        "lightningdit",
        dict(
            patch_size=2,
            hidden_size=32,
            depth=2,
            num_heads=2,
            num_classes=3,
            use_qknorm=True,
            wo_shift=True,
        )
        | RELEASED,
    ),
    "lightningdit_layernorm": (
        "lightningdit",
        dict(
            patch_size=2,
            hidden_size=32,
            depth=2,
            num_heads=2,
            num_classes=3,
            use_qknorm=True,
            use_rope=True,
        )
        | dict(learn_sigma=True),
    ),
    "lightningdit_b": (
        "lightningdit",
        dict(patch_size=1, hidden_size=768, depth=12, num_heads=12) | RELEASED,
    ),
}
MARKS = {"dit_plain": pytest.mark.smoke, "lightningdit_b": pytest.mark.slow}


def relative_error(ours, theirs):
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("case", [pytest.param(case, marks=MARKS.get(case, ())) for case in CASES])
def test_output_and_features_equal_the_reference(case):
    """Conditional and null; released networks are called with the null class spelled out, ours by
    leaving it out.
    """
    golden = np.load(GOLDEN / f"{case}.npz")
    kind, arguments = CASES[case]
    arguments |= dict(input_size=golden["x"].shape[1], in_channels=golden["x"].shape[3])
    family = {"dit": dit, "lightningdit": lightningdit}[kind]
    network, variables = load_reference(kind, state_dict(family, **arguments), **arguments)
    x, t, y = (jnp.asarray(golden[name]) for name in ("x", "t", "y"))
    apply = jax.jit(network.apply)
    out, features = apply(variables, x, t, y)
    assert out.shape == golden["out"].shape and out.dtype == jnp.float32
    assert relative_error(out, golden["out"]) < 8e-6
    assert list(features) == [*block_names(network.depth), "bottleneck"]
    for name in block_names(network.depth):
        ours = features[name].mean(1) if case == "lightningdit_b" else features[name]
        assert relative_error(ours, golden[name]) < 8e-6, name
    assert (
        relative_error(features["bottleneck"], np.asarray(features[network.bottleneck]).mean(1))
        < 1e-6
    )
    for i in np.flatnonzero(golden["y"] == network.num_classes):
        null = apply(variables, x[i : i + 1], t[i : i + 1])[0]
        assert relative_error(null, golden["out"][i : i + 1]) < 8e-6
    if "num_params" in golden:
        assert (
            sum(leaf.size for leaf in jax.tree.leaves(variables))
            == int(golden["num_params"])
            == 130_556_192
        )


@pytest.mark.parametrize(
    ("kind", "arguments", "count"),
    [
        ("dit", dict(hidden_size=384, depth=12, num_heads=6, patch_size=8), 33_148_160),
        ("dit", {}, 675_129_632),
        (
            "lightningdit",
            dict(hidden_size=1024, depth=24, patch_size=1, input_size=16) | RELEASED,
            458_152_960,
        ),
        ("lightningdit", dict(patch_size=1, input_size=16) | RELEASED, 675_256_736),
    ],
    ids=["DiT-S/8", "DiT-XL/2", "LightningDiT-L/1", "LightningDiT-XL/1"],
)
def test_parameter_counts_are_the_references(kind, arguments, count):
    family = {"dit": dit, "lightningdit": lightningdit}[kind]
    reference = family.Arguments(**arguments)
    x = jax.ShapeDtypeStruct((1, *reference.input_shape), "float32")
    t = jax.ShapeDtypeStruct((1,), "float32")
    shapes = jax.eval_shape(reference.network().init, jax.random.key(0), x, t)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_null_class_is_among_the_golden_labels():
    cases = {case: np.load(GOLDEN / f"{case}.npz")["y"] for case in CASES}
    nulls = [
        case for case, y in cases.items() if (y == CASES[case][1].get("num_classes", 1000)).any()
    ]
    assert len(nulls) == 5


def test_position_embedding_is_the_references():
    golden = np.load(GOLDEN / "dit_sigma.npz")["pos_embed"]
    np.testing.assert_allclose(position_embedding(4, 4, 32)[None], golden, atol=1e-6)


def test_positions_are_of_rows_and_columns():
    """Height and width are separate numbers: a wide grid's rows and columns have a square grid's
    numbers.
    """
    square, wide = (
        position_embedding(4, 4, 16).reshape(4, 4, 16),
        position_embedding(2, 4, 16).reshape(2, 4, 16),
    )
    np.testing.assert_array_equal(wide, square[:2])
    for table, part in zip(rotation(4, 4, 8), rotation(2, 4, 8), strict=True):
        np.testing.assert_array_equal(part.reshape(2, 4, 8), table.reshape(4, 4, 8)[:2])


def test_rotary_attention_depends_on_distance_alone():
    """The law that RoPE is for: a query's product with a key is a function of how far apart they
    are.
    """
    query, key = (jnp.asarray(drawn_inputs(name, (8,))) for name in ("query", "key"))
    turns = tuple(jnp.asarray(wave) for wave in rotation(5, 5, 8))
    everywhere = lambda vector: jnp.broadcast_to(vector, (1, 1, 25, 8))
    products = jnp.einsum("bhld,bhmd->lm", *(rotated(everywhere(v), *turns) for v in (query, key)))
    products = np.asarray(products).reshape(5, 5, 5, 5)
    for down, right in itertools.product(range(3), range(3)):
        of_distance = [
            products[r, c, r + down, c + right] for r in range(5 - down) for c in range(5 - right)
        ]
        np.testing.assert_allclose(of_distance, of_distance[0], atol=1e-5)
    assert np.ptp(products) > 1


SMALL = dict(patch_size=2, width=16, depth=4, num_heads=2, num_classes=3, bottleneck="block_2")
LIGHTNING = dict(rope=True, rmsnorm=True, swiglu=True, qk_norm=True)


def small(**fields):
    """A small network with every parameter drawn (none zero), and inputs; height and width are
    separate numbers.
    """
    network = DiT(**SMALL | fields)
    x, t, y = (
        jnp.asarray(drawn_inputs("x", (2, 8, 4, 3))),
        jnp.array([3.0, 700.0]),
        jnp.array([0, 3]),
    )
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, t)["params"]
    leaf = lambda path, like: jnp.asarray(
        0.3 * drawn_inputs(jax.tree_util.keystr(path), like.shape)
    )
    return network, jax.tree_util.tree_map_with_path(leaf, shapes), x, t, y


def loss(network, params, x, t, y, capture=None):
    out, features = network.apply({"params": params}, x, t, y, capture=capture)
    return jnp.square(out).mean() + sum(jnp.square(feature).mean() for feature in features.values())


@pytest.mark.parametrize(
    ("scan", "remat"),
    [(True, remat) for remat in POLICIES] + [(False, remat) for remat in list(POLICIES)[1:]],
)
@pytest.mark.parametrize(
    ("options", "conditioned"),
    [({}, True), (LIGHTNING, False)],
    ids=["dit, conditioned", "lightningdit"],
)
@pytest.mark.slow
def test_scan_remat_and_capture_change_no_number(options, conditioned, scan, remat):
    """Against the loop with all features: outputs, features and gradients, the design's 1e-4 bound
    and closer.
    """
    network, params, x, t, y = small(self_condition=conditioned, scan=False, **options)
    names = ["block_3", "bottleneck"]
    expected = jax.jit(network.apply)({"params": params}, x, t, y)
    gradient = jax.jit(jax.grad(lambda p: loss(network, p, x, t, y, names)))(params)
    size = np.sqrt(sum(jnp.square(g).sum() for g in jax.tree.leaves(gradient)))
    other = network.clone(scan=scan, remat=remat)
    for capture in (("block_1",), None) if remat == "none" else ():
        out, features = jax.jit(other.apply, static_argnames="capture")(
            {"params": params}, x, t, y, capture=capture
        )
        np.testing.assert_allclose(out, expected[0], atol=2e-6 * np.abs(expected[0]).max())
        assert list(features) == (list(expected[1]) if capture is None else list(capture))
        for name, feature in features.items():
            np.testing.assert_allclose(
                feature, expected[1][name], atol=2e-6 * np.abs(feature).max()
            )
    found = jax.jit(jax.grad(lambda p: loss(other, p, x, t, y, names)))(params)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(gradient), strict=True):
        assert np.linalg.norm(ours - theirs) <= 1e-5 * max(np.linalg.norm(theirs), 1e-3 * size)


def test_a_scan_compiles_one_block_for_all():
    """The program's length does not grow with depth, whatever is captured.

    Unrolled it grows by the calls of each block, at least one for each of its 12 parameters.
    """

    def lines(capture, **fields):
        network, params, x, t, y = small(self_condition=True, **fields)
        apply = lambda p: network.apply({"params": p}, x, t, y, capture=capture)
        return len(jax.jit(apply).lower(params).as_text().splitlines())

    assert lines((), depth=12) == lines((), depth=6)
    assert lines(("block_4",), depth=12) == lines(("block_4",), depth=6)
    assert lines((), depth=12, scan=False) > lines((), depth=6, scan=False) + 6 * 12


@pytest.mark.slow
def test_a_captured_layers_loss_needs_no_memory_that_grows_with_depth():
    """What a loss on one block's tokens adds to a training step's temporaries, at two depths."""

    def added(depth):
        network = DiT(**SMALL | dict(depth=depth, width=32), remat="block")
        x, t, y = jnp.zeros((16, 16, 16, 3)), jnp.zeros(16), jnp.zeros(16, int)
        params = jax.eval_shape(network.init, jax.random.key(0), x, t)["params"]
        token_bytes = 16 * 64 * 32 * 4
        sizes = [
            jax.jit(jax.grad(lambda p, c=c: loss(network, p, x, t, y, c)))
            .lower(params)
            .compile()
            .memory_analysis()
            .temp_size_in_bytes
            for c in ((), ("block_3",))
        ]
        return (sizes[1] - sizes[0]) / token_bytes

    extra = [added(depth) for depth in (6, 18)]
    assert abs(extra[1] - extra[0]) < 1.5, (
        extra
    )  # in tensors of a block's tokens; one a block would add 12


def test_self_conditioned_network_starts_as_the_plain_one():
    plain, _, x, t, y = small()
    network, *_ = small(self_condition=True)
    params = jax.jit(network.init)(jax.random.key(0), x, t)["params"]
    params["final_linear"]["kernel"] = jnp.asarray(
        drawn_inputs("final", params["final_linear"]["kernel"].shape)
    )
    out, features = jax.jit(network.apply)({"params": params}, x, t, y)
    np.testing.assert_allclose(
        features["bottleneck"], features["block_2"].mean(1), rtol=1e-5, atol=1e-7
    )
    params.pop("self_conditioning")
    np.testing.assert_allclose(out, jax.jit(plain.apply)({"params": params}, x, t, y)[0], atol=1e-6)
    assert np.abs(np.asarray(out)).max() > 0.1


def test_a_bottleneck_that_is_no_block_is_refused():
    with pytest.raises(ValueError, match=r"bottleneck: .*'block_6'.*block_2"):
        DiT(depth=2, scan=False).init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1))


def test_conditioning_reaches_what_follows_and_the_final_norm():
    """Against the plain network by its parts: with the last block as bottleneck only the final
    modulation is moved.
    """
    network, params, x, t, y = small(self_condition=True, bottleneck="block_4")
    t = jnp.array([3.0, 70.0])  # later times' angles are rounded by more than the bound below
    plain = network.clone(self_condition=False)
    own = {name: leaf for name, leaf in params.items() if name != "self_conditioning"}
    out, features = jax.jit(network.apply)({"params": params}, x, t, y)
    without, plain_features = jax.jit(plain.apply)({"params": own}, x, t, y)
    for name in block_names(4):
        np.testing.assert_allclose(features[name], plain_features[name], atol=1e-6)
    assert np.abs(out - without).max() > 1e-2

    f64 = lambda leaf: np.asarray(leaf, np.float64)
    silu = lambda a: a / (1 + np.exp(-a))
    dense = lambda p, a: a @ f64(p["kernel"]) + f64(p["bias"])
    angles = f64(t)[:, None] * 10_000.0 ** -(np.arange(128) / 128)
    waves = np.concatenate([np.cos(angles), np.sin(angles)], 1)
    time = dense(own["time_embed_2"], silu(dense(own["time_embed_1"], waves)))
    condition = time + f64(own["label_embed"]["embedding"])[np.asarray(y)]
    tokens = f64(features["block_4"])
    pooled, sc = tokens.mean(1), params["self_conditioning"]
    normed = (pooled - pooled.mean(1, keepdims=True)) / np.sqrt(pooled.var(1, keepdims=True) + 1e-5)
    projected = dense(sc["project"], normed * f64(sc["norm"]["scale"]) + f64(sc["norm"]["bias"]))
    condition = condition + (1 + dense(sc["scale"], silu(time))) * projected
    shift, scale = np.split(dense(own["final_modulation"], silu(condition))[:, None], 2, axis=-1)
    tokens = (tokens - tokens.mean(-1, keepdims=True)) / np.sqrt(
        tokens.var(-1, keepdims=True) + 1e-6
    )
    patches = dense(own["final_linear"], tokens * (1 + scale) + shift)
    expected = patches.reshape(2, 4, 2, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 8, 4, 3)
    assert relative_error(out, expected) < 1e-5


def test_initialisation_is_the_papers():
    """Zero output, gates shut; every linear layer Xavier-uniform, a block's own numbers each; fixed
    positions.
    """
    network, _, x, t, y = small(depth=6, width=64, **LIGHTNING)
    params = jax.jit(network.init)(jax.random.key(0), x, t)["params"]
    assert (np.asarray(jax.jit(network.apply)({"params": params}, x, t, y)[0]) == 0).all()
    blocks = params["blocks"]
    assert (np.asarray(blocks["modulation"]["kernel"]) == 0).all()
    qkv = np.asarray(blocks["attn"]["qkv"]["kernel"])
    assert qkv.shape == (6, 64, 192)
    bound = np.sqrt(6 / (64 + 192))
    assert 0.98 * bound < np.abs(qkv).max() <= bound and np.abs(qkv[0] - qkv[1]).max() > bound
    np.testing.assert_allclose(qkv.std(), bound / np.sqrt(3), rtol=0.02)
    np.testing.assert_allclose(np.asarray(params["time_embed_1"]["kernel"]).std(), 0.02, rtol=0.03)
    np.testing.assert_array_equal(params["pos_embed"][0], position_embedding(4, 2, 64))


def test_positions_have_no_gradient():
    network, params, x, t, y = small()
    gradient = jax.jit(jax.grad(lambda p: loss(network, p, x, t, y)))(params)
    assert (np.asarray(gradient["pos_embed"]) == 0).all()
    moved = {
        name: jax.tree.leaves(tree)[-1] for name, tree in gradient.items() if name != "pos_embed"
    }
    assert all(np.abs(leaf).max() > 0 for leaf in moved.values())


def test_labels_and_augmentation_condition_the_network():
    network, params, x, t, y = small(augment_dim=9)
    label = jnp.asarray(drawn_inputs("augment", (2, 9)))
    apply = lambda *inputs: np.asarray(jax.jit(network.apply)({"params": params}, x, t, *inputs)[0])
    np.testing.assert_array_equal(apply(), apply(jnp.full(2, 3), jnp.zeros((2, 9))))
    assert np.abs(apply(y, label) - apply(y)).max() > 1e-3
    assert np.abs(apply(jnp.array([1, 2])) - apply(y)).max() > 1e-3


def test_bfloat16_computes_close_to_float32():
    network, params, x, t, y = small(self_condition=True, **LIGHTNING)
    half = network.clone(dtype=jnp.bfloat16)
    exact, close = (jax.jit(n.apply)({"params": params}, x, t, y)[0] for n in (network, half))
    assert close.dtype == jnp.float32
    assert 1e-5 < relative_error(close, np.asarray(exact)) < 0.05
