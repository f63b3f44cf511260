"""Autoencoders against their references, whose numbers are in tests/golden."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.errors import expect_error
from helpers.references import state_dict

from ddaepp_jax.released.reference import FAMILIES, load_reference

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "autoencoders.npz")
DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
SMALL = dict(ch=32, num_res_blocks=1)
CASES = {
    "kl": (
        "autoencoder-kl",
        dict(
            down_block_types=(DOWN,) * 3,
            up_block_types=(UP,) * 3,
            block_out_channels=(32, 64, 64),
            layers_per_block=1,
        ),
    ),
    "kl_options": (
        "autoencoder-kl",
        dict(
            in_channels=1,
            out_channels=1,
            down_block_types=(DOWN,) * 2,
            up_block_types=(UP,) * 2,
            block_out_channels=(32, 48),
            layers_per_block=2,
            latent_channels=6,
            norm_num_groups=16,
            use_quant_conv=False,
            use_post_quant_conv=False,
            mid_block_add_attention=False,
        ),
    ),
    "va_vae": ("va-vae", dict(embed_dim=8, ch_mult=(1, 1, 2, 2, 4)) | SMALL),
    "mar_vae": (
        "va-vae",
        dict(embed_dim=4, ch_mult=(1, 2, 2, 2, 2), model_type="marvae", use_variational=False)
        | SMALL,
    ),
    "taesd": ("taesd", dict(latent_channels=4)),
    "taesd_flux_2": ("taesd", dict(latent_channels=32, arch_variant="flux_2")),
}


def relative_error(ours, theirs):
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("case", CASES)
def test_moments_and_images_equal_the_reference(case):
    kind, arguments = CASES[case]
    tensors = state_dict(FAMILIES[kind], **arguments)
    module, variables = load_reference(kind, tensors, **arguments)
    for method, name, result in (("encode", "x", "moments"), ("decode", "z", "images")):
        apply = jax.jit(
            lambda variables, x, method=method: module.apply(variables, x, method=method)
        )
        ours = apply(variables, jnp.asarray(GOLDEN[f"{case}.{name}"]))
        theirs = GOLDEN[f"{case}.{result}"]
        assert ours.shape == theirs.shape and ours.dtype == jnp.float32
        assert relative_error(ours, theirs) < 8e-6, method


@pytest.mark.parametrize("case", CASES)
def test_the_tensors_tell_the_network(case):
    kind, arguments = CASES[case]
    family = FAMILIES[kind]
    told = family.arguments(state_dict(family, **arguments))
    guessed = {name: value for name, value in arguments.items() if name in family.GUESSED}
    assert family.Arguments(**told | guessed).network() == family.Arguments(**arguments).network()


def test_files_of_before_2023_have_other_names():
    kind, arguments = CASES["kl"]
    tensors = state_dict(FAMILIES[kind], **arguments)
    older = tensors
    for old, new in FAMILIES[kind].RENAMED.items():
        older = {name.replace(new, old): tensor for name, tensor in older.items()}
    assert older.keys() != tensors.keys()
    expected, variables = (load_reference(kind, each, **arguments)[1] for each in (tensors, older))
    jax.tree.map(np.testing.assert_array_equal, variables, expected)


def test_what_va_vae_was_trained_with_is_left_out():
    kind, arguments = CASES["va_vae"]
    tensors = state_dict(FAMILIES[kind], **arguments)
    others = ("foundation_model.model.cls_token", "loss.logvar", "linear_proj.weight")
    tensors = {  # Where our layers are dense, the reference's are convolutions of 1x1.
        name: tensor[..., None, None] if ".attn" in name and tensor.ndim == 2 else tensor
        for name, tensor in tensors.items()
    }
    load_reference(kind, tensors | {name: np.ones(1) for name in others}, **arguments)
    with expect_error("tensors that this network does not have: decoder.more"):
        load_reference(kind, tensors | {"decoder.more": np.ones(1)}, **arguments)
