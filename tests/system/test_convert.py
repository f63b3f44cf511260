"""Released weights: ``load_reference`` gives the reference's outputs, and every program takes the
run directories that ``convert`` writes.
"""

import argparse
import collections
import datetime
import gzip
import hashlib
import json
import pickle
import socketserver
import subprocess
import sys
import tarfile
import threading
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
from ddaepp_jax.released import ddae_unet, dit, lightningdit, run_directory, u_vit
from ddaepp_jax.released.fetch import fetch
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
    arguments = DIGITS["uvit"]
    tensors = state_dict(u_vit, **arguments)
    tensors["norm.bias"][3] = np.inf
    with expect_error("tensors", "1 of the 64 numbers of norm.bias", "infinite"):
        convert.load_reference("u-vit", tensors, **arguments)


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
    module = module.clone(attention=run.module.attention)  # A run's is that of the machine.
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
    assert "reading averaged weights 'ema._orig_mod.'\n" in capsys.readouterr().out
    run = load(workdir)
    assert (run.image_shape, run.num_classes, run.class_names) == ((4, 4, 8), 3, ("0", "1", "2"))
    assert run.module.rope and run.module.rmsnorm and run.module.swiglu and not run.module.qk_norm
    with expect_error("data.autoencoder: va-vae is not on this machine", "decode=False"):
        run.sample(n=3, steps=3)
    latents = run.sample(n=3, steps=3, guidance=2.0, decode=False)
    assert latents.shape == (3, 4, 4, 8) and latents.dtype == np.float32 and latents.std() > 0.1
    assert run.features(latents, noise_level=0.8, layers=["block_2"])["block_2"].shape == (3, 128)
    sample.main([f"--workdir={workdir}", "--n=2", "--steps=2", "--decode=False"])
    (file,) = workdir.glob("samples/step0-*-n2-seed0.npz")
    assert np.load(file)["latents"].shape == (2, 4, 4, 8)
    assert not list(workdir.glob("samples/*.png")) and "latents" in capsys.readouterr().out
    with expect_error("data.data_dir: empty", "cache_latents"):
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
    stopped = tmp_path / "stopped"
    (stopped / run_directory.UNFINISHED).mkdir(parents=True)
    dangling = tmp_path / "dangling"
    dangling.symlink_to("nowhere")
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
            "--options",
            "n_channels=64",
            "32",
        ),
        (
            ["--kind=ddae-unet", good, workdir, "--options=width=64"],
            "--options",
            "ddae-unet",
            "'width'",
        ),
        (
            ["--kind=ddae-unet", good, workdir, "--options=dropout=0.1,n_blocks=1,dropout=0.2"],
            "argument --options",
            "dropout",
            "2 times",
        ),
        (
            ["--kind=ddae-unet", good, workdir, "--options=attn_channels_per_head=24"],
            "--options",
            "24",
            "64",
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
        (["--kind=ddae-unet", good, f"--workdir={junk}"], "--workdir", f"{junk}", "already"),
        (["--kind=ddae-unet", good, f"--workdir={junk / 'run'}"], "--workdir", "cannot write"),
        (["--kind=ddae-unet", good, f"--workdir={stopped}"], "--workdir", "stopped", "remove"),
        (["--kind=ddae-unet", good, f"--workdir={dangling}"], "--workdir", "links to nothing"),
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
    with expect_error("--checkpoint", f"{tmp_path / 'unsafe.pt'}", "getattr", "tensors"):
        read(tmp_path / "unsafe.pt")
    torch.save({"w": torch.ones(1), "bad": torch.nn.functional.relu}, tmp_path / "class.pt")
    with expect_error("--checkpoint", "it holds torch.nn.functional.relu", "state_dict()"):
        read(tmp_path / "class.pt")
    assert not mark.exists()
    nested = {
        "EMA": {"ema_model.nn_model.w": torch.ones(2, 3, dtype=torch.bfloat16), "step": 5},
        "opt": {"lr": 0.1},
    }
    torch.save(nested, tmp_path / "safe.pth")
    tensors = read(tmp_path / "safe.pth")
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {
        "EMA.ema_model.nn_model.w": torch.bfloat16
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_what_lies_beside_the_tensors_is_not_in_the_way(zipped, tmp_path):
    torch = pytest.importorskip("torch", reason="the tests do not install PyTorch")
    column_major = np.arange(6, dtype=np.float16).reshape(2, 3).T
    checkpoint = {
        "ema": {"w": torch.arange(3.0)},
        "args": argparse.Namespace(lr=1e-4, results=Path("results")),
        "by_name": collections.defaultdict(int, {"w": torch.ones(2)}),
        "queue": collections.deque([1, 2]),
        "loss": np.float64(0.5),
        "arrays": [column_major, np.array([{}, None], object)],
        "date": datetime.datetime(2024, 1, 1),
    }
    file = tmp_path / "checkpoint.safetensors"  # The suffix does not matter.
    torch.save(checkpoint, file, _use_new_zipfile_serialization=zipped)
    tensors = read(file)
    assert tensors.keys() == {"ema.w", "by_name.w", "arrays.0"}
    np.testing.assert_array_equal(tensors["ema.w"], [0, 1, 2])
    np.testing.assert_array_equal(tensors["arrays.0"], column_major)
    content = bytearray(file.read_bytes())
    content[content.index(np.arange(3, dtype=np.float32).tobytes()) + 6] ^= 1
    if zipped:  # An older file has no checksum.
        file.write_bytes(content)
        with expect_error("--checkpoint", f"{file}", "checksum"):
            read(file)
    file.write_bytes(content[:-40])
    with expect_error("--checkpoint", f"{file}", "download it again"):
        read(file)


def test_numbers_that_are_no_weights_are_refused():
    torch = pytest.importorskip("torch", reason="the tests do not install PyTorch")
    whole = {name: torch.tensor(t) for name, t in state_dict(u_vit, **DIGITS["uvit"]).items()}
    weight = whole["norm.weight"].requires_grad_()
    for tensor, *words in (
        (torch.full_like(weight, torch.nan, dtype=torch.bfloat16), "64 of the 64", "NaN"),
        (weight.double() * 1e300, "64 of the 64", "infinite"),
        (weight.to(torch.int8), "torch.int8", "quantisation"),
        (weight.to(torch.complex64), "torch.complex64"),
        (weight.to_sparse(), "dense"),
        (weight.to("meta"), "memory"),
    ):
        with expect_error("tensor", "norm.weight", *words):
            convert.load_reference("u-vit", whole | {"norm.weight": tensor}, **DIGITS["uvit"])
    _, variables = convert.load_reference("u-vit", whole, **DIGITS["uvit"])
    np.testing.assert_array_equal(variables["params"]["norm"]["scale"], weight.detach())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["is empty", "download"]),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ["a git-lfs pointer"]),
        (b"\n<!DOCTYPE html>\n<html>", ["an HTML page", "logging in"]),
        (b"<html lang='en'>", ["an HTML page"]),
        (b"<?xml version='1.0'?><Error/>", ["an XML document"]),
        (gzip.compress(b"weights"), ["a compressed file", "unpack"]),
        (pickle.dumps({"w": 1}), ["a Python pickle", "torch.save"]),
        (b'{"message": "Not Found"}', ["no index of shards", "weight_map"]),
        (b'{"weight_map": {"w": "../w.safetensors"}}', ["another directory"]),
        (b'{"weight_map": {"w": 1}}', ["no index of shards"]),
        (b"\x40" + bytes(7) + b'{"w":{"dtype":"F32"', ["cannot be read", "download"]),
        (b"weights", ["not a file of tensors", "b'weights'"]),
    ],
    ids=range(12),
)
def test_a_file_without_tensors_is_called_what_it_is(content, words, tmp_path):
    file = tmp_path / "weights.pt"
    file.write_bytes(content)
    with expect_error("--checkpoint", f"{file}", *words):
        read(file)


def test_archives_and_directories_are_called_what_they_are(tmp_path):
    np.savez(tmp_path / "arrays.npz", w=np.ones(2))
    with tarfile.open(tmp_path / "weights.tar", "w") as archive:
        archive.add(tmp_path / "arrays.npz", "w.npz")
    for name, word in (
        ("arrays.npz", "w.npy"),
        ("weights.tar", "an archive"),
        (".", "directory"),
        ("gone.pt", "no file"),
    ):
        with expect_error("--checkpoint", f"{tmp_path / name}", word):
            read(tmp_path / name)


def test_shards_are_read_beside_their_index(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    places = {"a.w": "model-1.safetensors", "b.w": "model-2.safetensors"}
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    save_file({"a.w": np.ones(2, np.float32)}, tmp_path / "model-1.safetensors")
    with expect_error("--checkpoint", f"{index}", "1 of 2", "model-2.safetensors"):
        read(index)
    save_file({"c.w": np.ones(2, np.float32)}, tmp_path / "model-2.safetensors")
    with expect_error("--checkpoint", "model-2.safetensors lacks b.w"):
        read(index)
    save_file({"b.w": np.full(2, 3, np.float32)}, tmp_path / "model-2.safetensors")
    tensors = read(index)
    assert tensors.keys() == {"a.w", "b.w"}
    np.testing.assert_array_equal(tensors["b.w"], [3, 3])
    index.write_text(json.dumps({"weight_map": {"a.w": index.name}}))
    with expect_error("--checkpoint", f"{index}", "not a file of tensors"):
        read(index)


def test_names_of_tensors_are_one_line(tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file({"a\n\x1b[1mb": np.ones(1, np.float32), "c" * 5000: np.ones(1, np.float32)}, file)
    assert sorted(read(file)) == [r"a\n\x1b[1mb", "c" * 200]


def test_a_download_is_whole_or_not_there(tmp_path):
    served = tmp_path / "served.pth"
    served.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()[:8]
    home = tmp_path / "home"
    with expect_error("--checkpoint", "served.pth", "SHA-256", "removed"):
        fetch(served.as_uri(), "00000000", home)
    assert not list(home.iterdir())
    assert fetch(served.as_uri(), digest, home).read_bytes() == b"weights"
    assert fetch("file:///gone/served.pth", digest, home) == home / "served.pth"
    (home / "served.pth").write_bytes(b"my own file")
    with expect_error("--checkpoint", f"{home / 'served.pth'}", "there already", "remove it"):
        fetch(served.as_uri(), digest, home)
    assert (home / "served.pth").read_bytes() == b"my own file"
    with expect_error("--workdir", f"{served}"):
        fetch(served.as_uri(), digest, served)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (b"HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\nshort", "after 5 of 10 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA\r\nshort", "IncompleteRead"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: many\r\n\r\nshort", "many"),
        (b"nonsense\r\n", "nonsense"),
        (b"", "cannot be fetched"),
    ],
    ids=["short", "chunks", "no number", "no HTTP", "closed"],
)
def test_a_download_that_fails_leaves_nothing(answer, word, tmp_path):
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(answer)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with expect_error("--checkpoint", "w.pth", word, "copy"):
            fetch(f"http://127.0.0.1:{server.server_address[1]}/w.pth", "00000000", tmp_path)
        thread.join()
    assert not list(tmp_path.iterdir())


def test_a_conversion_that_is_stopped_leaves_no_run(tmp_path):
    def written(path: Path) -> Path:
        path.mkdir(parents=True)
        for name in ("config.json", "checkpoints", "version.txt"):
            (path / name).touch()
        return path

    moved = []

    class Stopped(KeyboardInterrupt):
        pass

    original = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path.name == "config.json":
            raise Stopped
        moved.append(path.name)
        return original(path, target)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Path, "rename", rename)
        with run_directory._unfinished(tmp_path / "run") as unfinished:
            written(unfinished)
    assert sorted(moved) == ["checkpoints", "version.txt"]
    assert not (tmp_path / "run" / "config.json").exists()
    with run_directory._unfinished(tmp_path / "whole") as unfinished:
        written(unfinished)
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert names == {"config.json", "checkpoints", "version.txt"}
    with (
        expect_error("--workdir", f"{tmp_path / 'full'}", "No space left"),
        run_directory._unfinished(tmp_path / "full") as unfinished,
    ):
        written(unfinished)
        raise OSError(28, "No space left on device")
    assert not list((tmp_path / "full").iterdir())


def test_overrides_change_the_published_recipe():
    config = parse_config(["--config.train.batch_size=64"], RECIPES["u-vit"])
    assert (config.diffusion.name, config.diffusion.time_input) == ("vp", "999t")
    assert config.train.batch_size == 64
