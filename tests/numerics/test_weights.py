"""Finding a network in a file, reading its arguments, and errors about tensors."""

import numpy as np
import pytest
from helpers.errors import expect_error
from helpers.references import state_dict

from ddaepp_jax.models.unet import UNet
from ddaepp_jax.models.uvit import UViT
from ddaepp_jax.released import choice, ddae_unet, dit, inception_fid, lightningdit, u_vit, weights
from ddaepp_jax.released.choice import choose_network
from ddaepp_jax.released.pickled import flattened
from ddaepp_jax.released.reference import FAMILIES, load_reference, network_of

MARKS = ("a.weight", "b.weight")


def names(*prefixes):
    return [prefix + name for prefix in prefixes for name in (*MARKS, "other")]


@pytest.mark.parametrize(
    ("prefixes", "expected"),
    [
        ([""], ""),
        (["module."], "module."),
        (
            ["EMA.ema_model.nn_model.", "EMA.online_model.nn_model.", "MODEL.module.nn_model."],
            "EMA.ema_model.nn_model.",
        ),
        (["model.", "model_ema."], "model_ema."),
    ],
    ids=str,
)
def test_the_averaged_network_is_found_behind_its_prefixes(prefixes, expected):
    assert choice.find_prefix(names(*prefixes), MARKS) == expected


def test_another_network_or_several_are_refused():
    with expect_error("the file has no tensors", "b.weight", "--kind"):
        choice.find_prefix(["a.weight", "c.weight"], MARKS)
    with expect_error("several networks", "'one.', 'two.'", "--prefix"):
        choice.find_prefix(names("one.", "two."), MARKS)


def test_nested_dictionaries_are_flattened_to_their_tensors():
    nested = {
        "ema": {"net.w": np.ones(2), "step": 3},
        "opt": {"state": {0: {"m": np.zeros(1)}}},
        "epoch": 7,
        "averages": {"shadow_params": [np.ones(1), np.ones(2)]},
    }
    averages = {"averages.shadow_params.0", "averages.shadow_params.1"}
    assert set(flattened(nested)) == {"ema.net.w", "opt.state.0.m"} | averages


@pytest.mark.parametrize(
    ("averages", "prefix", "says", "unread"),
    [
        (names("ema."), None, "averaged weights 'ema.'", ()),
        (names("ema."), "raw.", "weights 'raw.'", ()),
        (["schema.a", "schema.b", "schema.c", "schema.d"], None, "weights 'raw.'", ()),
        (["n_averaged"], None, "weights 'raw.'", ()),
        (
            ["model_ema.aweight", "model_ema.bweight", "model_ema.other", "model_ema.decay"],
            None,
            "raw weights 'raw.'",
            ("model_ema.",),
        ),
        (
            [f"s.shadow_params.{i}" for i in range(4)],
            None,
            "raw weights 'raw.'",
            ("s.shadow_params.",),
        ),
        ([f"netEMA.a{i}.weight" for i in range(4)], None, "raw weights 'raw.'", ("netEMA.",)),
    ],
    ids=["read", "not wanted", "other words", "a counter", "no dots", "a list", "other names"],
)
def test_the_choice_says_which_weights_are_taken_and_which_averages_are_not(
    averages, prefix, says, unread
):
    tensors = dict.fromkeys([*names("raw."), *averages], np.ones(1))
    network = choose_network(tensors, MARKS, prefix)
    assert str(network) == says and network.unread == unread
    assert network.tensors.keys() == {*MARKS, "other"}


def test_names_of_wrappers_are_stripped_wherever_they_are():
    wrapped = [
        "ema._orig_mod.a._fsdp_wrapped_module._checkpoint_wrapped_module.weight",
        "ema._orig_mod.b.module.weight",
        "ema._orig_mod.other._orig_mod.bias",
    ]
    network = choose_network(dict.fromkeys(wrapped, np.ones(1)), MARKS)
    assert network.prefix == "ema._orig_mod."
    assert network.tensors.keys() == {"a.weight", "b.weight", "other.bias"}
    same = dict.fromkeys([*MARKS, "other.bias", "other._orig_mod.bias"], np.ones(1))
    with expect_error("tensors other.bias and other._orig_mod.bias", "wrappers", "--prefix"):
        choose_network(same, MARKS)


UNET = dict(
    image_shape=(3, 8, 8), n_channels=32, ch_mults=(1, 2), is_attn=(False, True), n_blocks=1
)


def test_errors_name_tensors_that_do_not_fit():
    network = ddae_unet.Arguments(**UNET).network()
    whole = state_dict(ddae_unet, **UNET)
    params = weights.variables(ddae_unet, network, whole, (8, 8, 3))["params"]
    assert params.keys() >= {"in_1", "mid_1", "final"}
    less = {name: tensor for name, tensor in whole.items() if name != "up.0.res.conv1.weight"}
    for tensors, field, *words in (
        (less, "tensors", "missing", "up.0.res.conv1.weight"),
        (whole | {"extra.weight": np.zeros(2)}, "tensors", "not", "extra.weight"),
        (
            whole | {"final.weight": np.zeros((4, 32, 3, 3))},
            "tensor final.weight",
            "(4, 32, 3, 3)",
            "(3, 32, 3, 3)",
        ),
        (whole | {"norm.bias": np.zeros(31)}, "tensor norm.bias", "(31,)", "(32,)"),
        ({}, "tensors", "missing", " more"),
    ):
        with expect_error(field, *words):
            weights.variables(ddae_unet, network, tensors, (8, 8, 3))


TINY = dict(input_size=4, patch_size=2, in_channels=1, hidden_size=16, depth=2, num_classes=2)
TINY_UVIT = dict(img_size=4, patch_size=2, embed_dim=16, depth=2, num_heads=1)
TINY_UNET = dict(image_shape=(1, 4, 4), n_channels=32, n_blocks=1)
DAMAGES = {
    "removed": lambda tensor: None,
    "scalar": lambda tensor: tensor.flat[0].reshape(()),
    "axis more": lambda tensor: tensor[None],
    "axis less": lambda tensor: tensor[0],
    "empty": lambda tensor: tensor[..., :0],
    "nan": lambda tensor: np.full_like(tensor, np.nan),
    "int8": lambda tensor: tensor.astype(np.int8),
    "complex": lambda tensor: tensor.astype(np.complex64),
}
# Tensors without which a network is another one that is whole.
OPTIONAL = {"time_emb.aug_emb.weight"}


@pytest.mark.parametrize(
    ("family", "arguments"),
    [
        (dit, TINY | dict(num_heads=1)),
        (
            lightningdit,
            TINY
            | dict(num_heads=2, use_qknorm=True, use_swiglu=True, use_rope=True, use_rmsnorm=True),
        ),
        (u_vit, TINY_UVIT | dict(num_classes=3, qkv_bias=True, mlp_time_embed=True)),
        pytest.param(
            ddae_unet,
            TINY_UNET | dict(ch_mults=(1,), is_attn=(True,), augment_dim=3),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lightningdit,
            TINY | dict(depth=1, num_heads=2, use_qknorm=True, wo_shift=True),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            u_vit, TINY_UVIT | dict(depth=4, skip=False, conv=False), marks=pytest.mark.slow
        ),
        pytest.param(
            ddae_unet,
            TINY_UNET | dict(ch_mults=(1, 2), is_attn=(False, True), use_res_for_updown=True),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_damage_of_a_tensor_is_an_error_that_names_it(family, arguments):
    (kind,) = (kind for kind in FAMILIES if FAMILIES[kind] is family)
    whole = state_dict(family, **arguments)
    for name in whole:
        if name.startswith("feat_rope."):  # a function of the shape, whose numbers are not used
            continue
        for damage, change in DAMAGES.items():
            if damage == "removed" and name in OPTIONAL:
                continue
            tensors = whole | {name: change(whole[name])}
            tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
            with expect_error("", name):
                own = choose_network(tensors, family.MARKS).tensors
                load_reference(kind, own, **family.arguments(own))


@pytest.mark.parametrize("name", ["image_proj.weight", "down.0.res.conv1.weight", "final.bias"])
def test_damages_of_a_unets_tensors_name_them(name):
    whole = state_dict(ddae_unet, **TINY_UNET, ch_mults=(1,), is_attn=(False,))
    for change in DAMAGES.values():
        tensors = whole | {name: change(whole[name])}
        tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        with expect_error("", name):
            load_reference("ddae-unet", tensors, **ddae_unet.arguments(tensors))


def test_damages_of_inceptions_classifier_name_it():
    for tensors in ({}, {"fc.weight": np.ones(3)}, {"fc.weight": np.ones((0, 2048))}):
        with expect_error("tensor", "fc.weight"):
            inception_fid.arguments(tensors)


def test_tensors_that_belong_together_are_not_taken_apart():
    """Without the cosines of the rotary embedding, and with half a bias, a network looks whole."""
    rope = TINY | dict(num_heads=2, use_rope=True)
    tensors = state_dict(lightningdit, **rope)
    del tensors["feat_rope.freqs_cos"]
    with expect_error("tensors that are missing", "feat_rope.freqs_cos"):
        lightningdit.arguments(tensors)
    tensors = state_dict(dit, **TINY, num_heads=1)
    name = "final_layer.linear.bias"
    tensors[name] = tensors[name][:4]
    with expect_error(f"tensor {name}", "(4,)", "(8,)"):
        dit.arguments(tensors)


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        ("dit", dict(depths=3), ("no argument 'depths'", "hidden_size")),
        ("dit", dict(num_heads=True), ("num_heads=True", "integer")),
        ("dit", dict(num_heads=0), ("num_heads=0", "greater than 0")),
        ("dit", dict(hidden_size=64, num_heads=3), ("num_heads (3)",)),
        ("dit", dict(depth=10**9), ("depth=1000000000", "65536")),
        ("dit", dict(class_dropout_prob=2.0), ("class_dropout_prob=2.0",)),
        ("lightningdit", dict(use_rope="yes"), ("use_rope='yes'", "boolean")),
        ("lightningdit", dict(mlp_ratio=float("inf")), ("mlp_ratio=inf", "finite")),
        ("u-vit", dict(mlp_ratio=float("nan")), ("mlp_ratio=nan",)),
        ("u-vit", dict(qk_scale="big"), ("qk_scale='big'",)),
        ("ddae-unet", dict(ch_mults=(1, 0)), ("ch_mults=(1, 0)",)),
        ("ddae-unet", dict(image_shape=(3, 32)), ("image_shape=(3, 32)",)),
        ("ddae-unet", dict(n_channels=33), ("33", "multiple of 32")),
        ("inception-fid", dict(num_classes="1008"), ("num_classes='1008'", "integer")),
    ],
)
def test_wrong_arguments_are_named(kind, arguments, words):
    with expect_error("", kind, *words):
        network_of(kind, **arguments)


def test_a_list_stands_for_a_tuple():
    lists = network_of("ddae-unet", ch_mults=[1, 2], is_attn=[False, True])
    assert lists == network_of("ddae-unet", ch_mults=(1, 2), is_attn=(False, True))


@pytest.mark.parametrize(
    "arguments",
    [
        UNET,
        dict(
            image_shape=(1, 8, 8),
            n_channels=32,
            ch_mults=(2, 1, 2),
            is_attn=(True, False, True),
            n_blocks=2,
        )
        | dict(use_res_for_updown=True, augment_dim=9),
    ],
    ids=["plain", "options"],
)
def test_a_unets_arguments_are_read_off_its_tensors(arguments):
    expected = dict(use_res_for_updown=False, augment_dim=0) | arguments
    expected["image_shape"] = (arguments["image_shape"][0], 32, 32)
    assert ddae_unet.arguments(state_dict(ddae_unet, **arguments)) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        dict(img_size=8, patch_size=2, embed_dim=64, depth=4, num_heads=1),
        dict(
            img_size=8,
            patch_size=4,
            in_chans=1,
            embed_dim=128,
            depth=2,
            num_heads=2,
            num_classes=11,
        )
        | dict(mlp_ratio=2.0, qkv_bias=True, mlp_time_embed=True, conv=False, skip=False),
    ],
    ids=["plain", "options"],
)
def test_a_uvits_arguments_are_read_off_its_tensors(arguments):
    defaults = dict(in_chans=3, mlp_ratio=4.0, qkv_bias=False, mlp_time_embed=False, num_classes=-1)
    expected = defaults | dict(conv=True, skip=True) | arguments
    assert u_vit.arguments(state_dict(u_vit, **arguments)) == expected


@pytest.mark.parametrize(
    ("family", "arguments"),
    [
        (
            dit,
            dict(
                input_size=8,
                patch_size=4,
                in_channels=3,
                hidden_size=128,
                depth=2,
                num_heads=2,
                num_classes=5,
            ),
        ),
        (
            dit,
            dict(
                input_size=8,
                patch_size=2,
                in_channels=4,
                hidden_size=1152,
                depth=1,
                num_heads=16,
                mlp_ratio=2.0,
            ),
        ),
        (
            lightningdit,
            dict(input_size=6, patch_size=1, in_channels=8, hidden_size=1024, depth=1, num_heads=16)
            | dict(use_swiglu=True, use_rope=True, use_rmsnorm=True),
        ),
        (
            lightningdit,
            dict(
                input_size=4,
                patch_size=2,
                in_channels=4,
                hidden_size=48,
                depth=2,
                num_heads=3,
                mlp_ratio=2.0,
            )
            | dict(use_qknorm=True, wo_shift=True, learn_sigma=True),
        ),
    ],
    ids=["dit", "dit-xl", "lightningdit", "lightningdit-options"],
)
def test_a_dits_arguments_are_read_off_its_tensors(family, arguments):
    expected = dict(mlp_ratio=4.0, num_classes=1000, learn_sigma=family is dit)
    if family is lightningdit:
        expected |= dict.fromkeys(
            ("use_qknorm", "use_swiglu", "use_rope", "use_rmsnorm", "wo_shift"), False
        )
    assert family.arguments(state_dict(family, **arguments)) == expected | arguments


def test_a_dit_without_a_null_class_gets_one_of_zeros():
    arguments = dict(
        input_size=4,
        patch_size=2,
        in_channels=1,
        hidden_size=16,
        depth=1,
        num_heads=1,
        num_classes=2,
    )
    tensors = state_dict(dit, **arguments)
    name = "y_embedder.embedding_table.weight"
    tensors[name] = tensors[name][:2]
    network = dit.Arguments(**arguments, class_dropout_prob=0.0).network()
    params = weights.variables(dit, network, tensors, (4, 4, 1))["params"]
    expected = np.concatenate([tensors[name], np.zeros((1, 16))])
    np.testing.assert_array_equal(params["label_embed"]["embedding"], expected)


def test_networks_follow_the_references_arguments():
    assert u_vit.Arguments(num_classes=11, depth=13).network().num_classes == 10
    network = u_vit.Arguments(use_checkpoint=True).network()
    assert isinstance(network, UViT) and network.remat == "block"
    assert u_vit.Arguments(img_size=32).input_shape == (32, 32, 3)
    network = ddae_unet.Arguments().network()
    assert isinstance(network, UNet) and network.bottleneck == "out_6"
    with expect_error("qk_scale", "0.1"):
        u_vit.Arguments(qk_scale=0.1).network()


@pytest.mark.parametrize("state_dict", [None, "cifar10_uvit_small.pth", [1]])
def test_what_is_no_state_dict(state_dict):
    with expect_error("state_dict", "not a mapping", "model.state_dict()"):
        load_reference("u-vit", state_dict)
