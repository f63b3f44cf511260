"""Released weights: ``load_reference`` gives the reference's outputs, and every program takes the
run directories that ``convert`` writes.
"""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.errors import expect_error
from helpers.references import state_dict
from safetensors.numpy import save_file

from ddaepp_jax import convert, linear_probe, load, report, sample
from ddaepp_jax.config.overrides import parse_config
from ddaepp_jax.released import ddae_unet, dit, lightningdit, u_vit
from ddaepp_jax.released.read import read
from ddaepp_jax.released.recipes import RECIPES
from ddaepp_jax.released.reference import FAMILIES
from ddaepp_jax.run.train import train_and_evaluate

GOLDEN = Path(__file__).parents[1] / "golden"
DIGITS = dict(
    unet=dict(
        image_shape=(1, 8, 8), n_channels=32, ch_mults=(1, 2), is_attn=(False, True), n_blocks=1
    ),
    uvit=dict(img_size=8, patch_size=2, in_chans=1, embed_dim=64, depth=2, num_heads=1),
    dit=dict(
        input_size=8,
        patch_size=2,
        in_channels=1,
        hidden_size=64,
        depth=2,
        num_heads=1,
        num_classes=10,
    ),
)


@pytest.mark.parametrize(
    ("kind", "case", "arguments"),
    [
        ("u-vit", "uvit_plain", dict(patch_size=2, embed_dim=32, depth=4, num_heads=4)),
        (
            "u-vit",
            "uvit_labels",
            dict(patch_size=4, embed_dim=48, depth=2, num_heads=3, num_classes=11),
        ),
        (
            "u-vit",
            "uvit_options",
            dict(patch_size=1, embed_dim=16, depth=4, num_heads=2, mlp_ratio=2.0)
            | dict(mlp_time_embed=True, qkv_bias=True, conv=False, skip=False),
        ),
        (
            "ddae-unet",
            "unet_options",
            dict(
                image_shape=(1, 4, 8),
                n_channels=32,
                ch_mults=(2, 1),
                is_attn=(True, True),
                n_blocks=2,
            )
            | dict(attn_channels_per_head=16, use_res_for_updown=True, augment_dim=9),
        ),
    ],
)
def test_load_reference_gives_the_references_outputs(kind, case, arguments):
    golden = np.load(GOLDEN / f"{case}.npz")
    family = FAMILIES[kind]
    if kind == "u-vit":
        arguments |= dict(img_size=golden["x"].shape[1], in_chans=golden["x"].shape[3])
    module, variables = convert.load_reference(kind, state_dict(family, **arguments), **arguments)
    inputs = [
        jnp.asarray(golden[name]) if name in golden else None
        for name in ("x", "t", "y", "augment_label")
    ]
    out, features = jax.jit(module.apply)(variables, *inputs)
    assert np.abs(out - golden["out"]).max() < 1e-4 * np.abs(golden["out"]).max()
    for name in set(features) & set(golden):
        assert np.abs(features[name] - golden[name]).max() < 1e-4 * np.abs(golden[name]).max(), name


def test_wrong_arguments_are_refused():
    with expect_error("kind", "'dcgan'", "lightningdit"):
        convert.load_reference("dcgan", {})
    with expect_error("u-vit", "'depths'", "embed_dim"):
        convert.load_reference("u-vit", {}, depths=3)


def test_the_public_name_is_lazy():
    code = "import sys, ddaepp_jax.released, ddaepp_jax.base.choice; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert callable(convert.load_reference)
    with pytest.raises(AttributeError, match="'load_references'"):
        _ = convert.load_references


@pytest.fixture
def digits(tmp_path):
    """Writes a config file for networks of digits; returns the argument that names it."""
    file = tmp_path / "config.py"
    file.write_text(
        "from ddaepp_jax import config as schema\n"
        "def get_config():\n"
        "    config = schema.get_config('tiny')\n"
        "    config.diffusion.time_input = 't/T'\n"
        "    return config\n"
    )
    return f"--config={file}"


def write_checkpoint(path, family, arguments, prefix):
    """Writes a file of a reference's tensors; returns the argument that names it."""
    tensors = state_dict(family, **arguments)
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, path)
    return f"--checkpoint={path}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "family", "arguments", "layer"),
    [
        ("ddae-unet", ddae_unet, DIGITS["unet"], "mid"),
        ("u-vit", u_vit, DIGITS["uvit"], "mid"),
        ("dit", dit, DIGITS["dit"] | dict(learn_sigma=False), "block_1"),
    ],
    ids=["ddae-unet", "u-vit", "dit"],
)
def test_every_program_takes_a_converted_run(
    kind, family, arguments, layer, digits, tmp_path, capsys
):
    checkpoint = write_checkpoint(tmp_path / "weights.safetensors", family, arguments, "module.")
    workdir = tmp_path / "run"
    overrides = ["--config.train.steps=2", "--config.optimizer.decay_mask=matrices"]
    convert.main([f"--kind={kind}", checkpoint, f"--workdir={workdir}", digits, *overrides])
    assert "self_condition=False" in capsys.readouterr().out
    run = load(workdir)
    module, variables = convert.load_reference(kind, state_dict(family, **arguments), **arguments)
    assert run.module == module and run.step == 0
    jax.tree.map(np.testing.assert_array_equal, run.params, variables["params"])
    assert run.sample(n=3, steps=2).shape == (3, 8, 8, 1)
    chosen = linear_probe.settings(run, layers=[layer], levels=[11], epochs=1, knn=0)
    assert linear_probe.probe(run, chosen, workdir / "probe" / "first")["best"]["layer"] == layer
    report.main([f"--workdir={workdir}"])
    train_and_evaluate(run.config, workdir)  # continues from the released weights
    assert load(workdir).step == 2
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in rows) == 2


def test_latent_networks_are_converted_without_data(tmp_path, capsys):
    """LightningDiT's shape and classes are read off the weights, and it samples latents."""
    arguments = dict(
        input_size=4,
        patch_size=1,
        in_channels=8,
        hidden_size=128,
        depth=2,
        num_heads=2,
        num_classes=3,
    )
    arguments |= dict(use_rope=True, use_rmsnorm=True, use_swiglu=True)
    checkpoint = write_checkpoint(
        tmp_path / "weights.safetensors", lightningdit, arguments, "ema._orig_mod."
    )
    workdir = tmp_path / "run"
    convert.main(
        ["--kind=lightningdit", checkpoint, f"--workdir={workdir}", "--config.model.dtype=float32"]
    )
    run = load(workdir)
    assert (run.image_shape, run.num_classes, run.class_names) == ((4, 4, 8), 3, ("0", "1", "2"))
    assert run.module.rope and run.module.rmsnorm and run.module.swiglu and not run.module.qk_norm
    latents = run.sample(n=3, steps=3, guidance=2.0)
    assert latents.shape == (3, 4, 4, 8) and latents.dtype == np.float32 and latents.std() > 0.1
    assert run.features(latents, noise_level=0.8, layers=["block_2"])["block_2"].shape == (3, 128)
    sample.main([f"--workdir={workdir}", "--n=2", "--steps=2"])
    (file,) = workdir.glob("samples/step0-*-n2-seed0.npz")
    assert np.load(file)["latents"].shape == (2, 4, 4, 8)
    assert not list(workdir.glob("samples/*.png")) and "latents" in capsys.readouterr().out
    with expect_error("data.name", "autoencoder"):
        train_and_evaluate(run.config, workdir)


@pytest.mark.slow
def test_a_learned_variance_loads_and_is_not_trained(digits, tmp_path):
    """Samplers read the mean's half of the output, which weights converted without the variance
    give alone. Training the variance is refused.

    The golden files check the variance's half.
    """
    checkpoint = write_checkpoint(tmp_path / "weights.safetensors", dit, DIGITS["dit"], "")
    argv = ["--kind=dit", checkpoint, digits, "--config.optimizer.weight_decay=0"]
    convert.main([*argv, f"--workdir={tmp_path / 'whole'}"])
    convert.main([*argv, f"--workdir={tmp_path / 'mean'}", "--options=learn_sigma=False"])
    whole, mean = load(tmp_path / "whole"), load(tmp_path / "mean")
    x, t = jnp.ones((1, 8, 8, 1)), jnp.array([5.0])
    out = whole.module.apply({"params": whole.params}, x, t)[0]
    assert out.shape == (1, 8, 8, 2)
    np.testing.assert_allclose(
        out[..., :1], mean.module.apply({"params": mean.params}, x, t)[0], atol=1e-6
    )
    np.testing.assert_array_equal(whole.sample(n=2, steps=2), mean.sample(n=2, steps=2))
    with expect_error("model.learn_sigma", "--options=learn_sigma=False"):
        train_and_evaluate(whole.config, tmp_path / "whole")


def test_bad_conversions_are_refused(digits, tmp_path):
    good = write_checkpoint(tmp_path / "weights.safetensors", ddae_unet, DIGITS["unet"], "")
    rgb = DIGITS["unet"] | dict(image_shape=(3, 8, 8))
    coloured = write_checkpoint(tmp_path / "rgb.safetensors", ddae_unet, rgb, "")
    junk = tmp_path / "junk.safetensors"
    junk.write_text("no tensors")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("something")
    workdir = f"--workdir={tmp_path / 'run'}"
    for argv, field, *words in (
        (["--kind=dcgan", good, workdir], "--kind", "'dcgan'", "lightningdit"),
        (["--kind=u-vit", workdir], "--checkpoint", "missing", "u-vit"),
        (["--kind=u-vit", good, workdir], "--checkpoint", "pos_embed", "kind"),
        (
            ["--kind=ddae-unet", "--checkpoint=nowhere.pt", workdir],
            "--checkpoint",
            "no file",
            "nowhere.pt",
        ),
        (
            ["--kind=ddae-unet", f"--checkpoint={junk}", workdir],
            "--checkpoint",
            f"{junk}",
            "tensors",
        ),
        (["--kind=ddae-unet", coloured, workdir], "data.name", "digits", "(8, 8, 1)", "(8, 8, 3)"),
        (
            ["--kind=ddae-unet", good, workdir, "--options=n_channels=64"],
            "--checkpoint",
            "tensor ",
            "shape",
        ),
        (
            ["--kind=ddae-unet", good, workdir, "--options=width=64"],
            "--checkpoint",
            "ddae-unet",
            "'width'",
        ),
        (
            ["--kind=ddae-unet", good, workdir, "--options=width"],
            "argument --options",
            "'width'",
            "comma",
        ),
        (
            ["--kind=ddae-unet", good, workdir, "--prefix=other."],
            "--checkpoint",
            "no tensor",
            "other.",
        ),
        (
            ["--kind=ddae-unet", good, f"--workdir={tmp_path / 'used'}"],
            "--workdir",
            f"{tmp_path / 'used'}",
            "already",
        ),
    ):
        with expect_error(field, *words):
            convert.main([*argv, digits])
    assert not (tmp_path / "run").exists()


def test_nothing_unsafe_is_unpickled(tmp_path):
    torch = pytest.importorskip(
        "torch", reason="reading .pt files needs PyTorch, which the tests do not install"
    )
    mark = tmp_path / "executed"

    class Unsafe:
        def __reduce__(self):
            return Path.touch, (mark,)

    torch.save({"w": torch.ones(1), "bad": Unsafe()}, tmp_path / "unsafe.pt")
    with expect_error("--checkpoint", f"{tmp_path / 'unsafe.pt'}", "tensors"):
        read(tmp_path / "unsafe.pt")
    assert not mark.exists()
    nested = {
        "EMA": {"ema_model.nn_model.w": torch.ones(2, 3, dtype=torch.bfloat16), "step": 5},
        "opt": {"lr": 0.1},
    }
    torch.save(nested, tmp_path / "safe.pth")
    tensors = read(tmp_path / "safe.pth")
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {
        "EMA.ema_model.nn_model.w": np.float32
    }


def test_overrides_change_the_published_recipe():
    config = parse_config(["--config.train.batch_size=64"], RECIPES["u-vit"])
    assert (config.diffusion.name, config.diffusion.time_input) == ("vp", "999t")
    assert config.train.batch_size == 64
