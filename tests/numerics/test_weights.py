"""Finding a network in a file, and what is said of tensors that don't fit."""

import numpy as np
import pytest
from helpers.errors import expect_error
from helpers.references import state_dict

from ddaepp_jax.models.unet import UNet
from ddaepp_jax.models.uvit import UViT
from ddaepp_jax.released import ddae_unet, dit, lightningdit, u_vit, weights

MARKS = ("a.weight", "b.weight")


def names(*prefixes):
    return [prefix + name for prefix in prefixes for name in (*MARKS, "other")]


@pytest.mark.parametrize(
    ("prefixes", "found"),
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
def test_the_averaged_network_is_found_behind_its_prefixes(prefixes, found):
    assert weights.prefix_of(names(*prefixes), MARKS) == found


def test_another_network_or_several_are_refused():
    with expect_error("no tensors", "b.weight", "kind"):
        weights.prefix_of(["a.weight", "c.weight"], MARKS)
    with expect_error("several networks", "'one.', 'two.'", "--prefix"):
        weights.prefix_of(names("one.", "two."), MARKS)


def test_nested_dictionaries_are_flattened_to_their_tensors():
    nested = {
        "ema": {"net.w": np.ones(2), "step": 3},
        "opt": {"state": {0: {"m": np.zeros(1)}}},
        "epoch": 7,
    }
    assert set(weights.flattened(nested)) == {"ema.net.w", "opt.state.0.m"}


UNET = dict(
    image_shape=(3, 8, 8), n_channels=32, ch_mults=(1, 2), is_attn=(False, True), n_blocks=1
)


def test_what_does_not_fit_is_named():
    module = ddae_unet.module(**UNET)
    whole = state_dict(ddae_unet, **UNET)
    assert weights.variables(ddae_unet, module, whole, (8, 8, 3))["params"].keys() >= {
        "in_1",
        "mid_1",
        "final",
    }
    less = {name: tensor for name, tensor in whole.items() if name != "up.0.res.conv1.weight"}
    for given, field, *words in (
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
            weights.variables(ddae_unet, module, given, (8, 8, 3))


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
    found = ddae_unet.arguments(state_dict(ddae_unet, **arguments))
    image_shape = (arguments["image_shape"][0], 32, 32)
    assert found == dict(use_res_for_updown=False, augment_dim=0) | arguments | dict(
        image_shape=image_shape
    )


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
    found = u_vit.arguments(state_dict(u_vit, **arguments))
    defaults = dict(in_chans=3, mlp_ratio=4.0, qkv_bias=False, mlp_time_embed=False, num_classes=-1)
    assert found == defaults | dict(conv=True, skip=True) | arguments


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
    found = family.arguments(state_dict(family, **arguments))
    expected = dict(mlp_ratio=4.0, num_classes=1000, learn_sigma=family is dit)
    if family is lightningdit:
        expected |= dict.fromkeys(
            ("use_qknorm", "use_swiglu", "use_rope", "use_rmsnorm", "wo_shift"), False
        )
    assert found == expected | arguments


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
    tensors["y_embedder.embedding_table.weight"] = tensors["y_embedder.embedding_table.weight"][:2]
    module = dit.module(**arguments, class_dropout_prob=0.0)
    table = weights.variables(dit, module, tensors, (4, 4, 1))["params"]["label_embed"]["embedding"]
    np.testing.assert_array_equal(
        table, np.concatenate([tensors["y_embedder.embedding_table.weight"], np.zeros((1, 16))])
    )


def test_modules_of_the_references_arguments():
    assert u_vit.module(num_classes=11, depth=13).num_classes == 10
    assert (
        isinstance(u_vit.module(use_checkpoint=True), UViT)
        and u_vit.module(use_checkpoint=True).remat
    )
    assert u_vit.image_shape(img_size=32) == (32, 32, 3)
    assert isinstance(ddae_unet.module(), UNet) and ddae_unet.module().bottleneck == "out_6"
    with expect_error("qk_scale", "0.1"):
        u_vit.module(qk_scale=0.1)
