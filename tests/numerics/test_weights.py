"""Finding a network in a file, reading its arguments, and errors about tensors."""

import numpy as np
import pytest
from helpers.errors import expect_error
from helpers.references import state_dict

from ddaepp_jax.models.unet import UNet
from ddaepp_jax.models.uvit import UViT
from ddaepp_jax.released import ddae_unet, dit, lightningdit, read, u_vit, weights

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
    assert read.find_prefix(names(*prefixes), MARKS) == expected


def test_another_network_or_several_are_refused():
    with expect_error("the file has no tensors", "b.weight", "--kind"):
        read.find_prefix(["a.weight", "c.weight"], MARKS)
    with expect_error("several networks", "'one.', 'two.'", "--prefix"):
        read.find_prefix(names("one.", "two."), MARKS)


def test_nested_dictionaries_are_flattened_to_their_tensors():
    nested = {
        "ema": {"net.w": np.ones(2), "step": 3},
        "opt": {"state": {0: {"m": np.zeros(1)}}},
        "epoch": 7,
    }
    assert set(read.flattened(nested)) == {"ema.net.w", "opt.state.0.m"}


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
    assert isinstance(network, UViT) and network.remat
    assert u_vit.Arguments(img_size=32).input_shape == (32, 32, 3)
    network = ddae_unet.Arguments().network()
    assert isinstance(network, UNet) and network.bottleneck == "out_6"
    with expect_error("qk_scale", "0.1"):
        u_vit.Arguments(qk_scale=0.1).network()
