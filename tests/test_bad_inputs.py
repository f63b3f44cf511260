"""Every bad input is one line that names field or file and the mend, before anything slow; nothing is left behind."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

import ddaepp_jax
from ddaepp_jax import build, linear_probe, main, sample
from ddaepp_jax import config as schema
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.errors import InputError

CONFIG = str(Path(schema.__file__))
TINY = f"--config={CONFIG}:tiny"
UNET = f"{Path(__file__).parents[1] / 'configs' / 'unet_edm_cifar.py'}:tiny"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained run; tests that damage it copy it."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    main.main([TINY, f"--workdir={workdir}"])
    return workdir


@pytest.fixture
def damaged(trained, tmp_path):
    """A copy of the trained run."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def refused(program, arguments, *parts):
    """Run a program's main; it has to end in one short line with all of ``parts`` in it."""
    with pytest.raises(InputError) as caught:
        program([str(argument) for argument in arguments])
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400 and "0x" not in line, line
    for part in parts:
        assert part in line, line


FIELDS = [  # --config.<what is given> -> parts of the line
    ("modle.depth=8", "--config.modle.depth: no such field; did you mean model.depth?"),
    ("model.dpeth=8", "--config.model.dpeth: no such field; did you mean model.depth?"),
    ("depth=8", "--config.depth: no such field; did you mean model.depth?"),
    ("model.depth.x=8", "--config.model.depth.x: no such field; did you mean model.depth?"),
    ("qqq=8", "--config.qqq: no such field; the groups of fields are", "model"),
    ("model=8", "--config.model: a group of fields; give one of", "depth"),
    ("model.depth", "--config.model.depth: needs a value; write --config.model.depth=VALUE"),
    ("model.depth=abc", "--config.model.depth: 'abc' is not an int"),
    ("model.depth=None", "--config.model.depth: 'None' is not an int"),
    ("train.batch_size=1.5", "--config.train.batch_size: '1.5' is not an int"),
    ("train.epochs=many", "--config.train.epochs: 'many' is not a float"),
    ("optimizer.learning_rate=", "--config.optimizer.learning_rate: '' is not a float"),
    ("data.flip=maybe", "--config.data.flip: 'maybe' is not a bool; write True or False"),
    ("ema.decays=0.9", "--config.ema.decays: '0.9' is not a tuple; write it with a comma"),
    ("ema.decays=(0.9", "--config.ema.decays: '(0.9' is not a tuple"),
    ("ema.decays=('a',)", "ema.decays: ('a',)", "between 0 and 1"),
    ("ema.decays=(1.0,)", "ema.decays: (1.0,)", "between 0 and 1"),
    ("ema.decays=()", "ema.decays: ()", "at least one"),
    ("train.steps=None", "train.steps, train.epochs, train.images: none given; give exactly one"),
    ("train.epochs=3", "train.steps, train.epochs, train.images: steps and epochs given; give exactly one"),
    ("train.steps=0", "train.steps: 0 is not positive"),
    ("train.log_every=0", "train.log_every: 0 is not positive"),
    ("train.batch_size=12", "train.batch_size: 12 is not a multiple of 8, the devices that share it"),
    ("train.steps=999999999", "train.steps: 999999999", "more than 2**32 images"),
    ("seed=-1", "seed: -1 is not in 0..2**32-1"),
    ("model.name=uvti", "model.name: no 'uvti'; there is uvit"),
    ("model.patch_size=3", "model.patch_size: 3 does not divide images of 8x8"),
    ("model.num_heads=3", "model.width: 64 is not a multiple of 2 * model.num_heads (3)"),
    ("model.depth=5", "model.depth: 5 is not a positive even number"),
    ("model.mlp_ratio=0", "model.mlp_ratio: 0.0 is not positive"),
    ("model.dtype=float16", "model.dtype: 'float16' is neither 'float32' nor 'bfloat16'"),
    ("model.bottleneck=in_9", "model.bottleneck: no 'in_9'; there is in_1, in_2, mid, out_1, out_2"),
    ("model.bottleneck=out_2", "model.bottleneck: no block follows 'out_2' to be conditioned; choose an earlier one"),
    ("model.pool=max", "model.pool: no 'max'; there is mean, cls"),
    ("model.attention=flash", "model.attention: no 'flash'; there is auto, xla, cudnn"),
    ("diffusion.name=edm2", "diffusion.name: no 'edm2'; there is ddpm"),
    ("diffusion.time_input=t2", "diffusion.time_input: no 't2'; there is t, t/T, 999t/T"),
    ("diffusion.num_steps=0", "diffusion.num_steps: 0 is not positive"),
    ("diffusion.beta_end=2.0", "diffusion.beta_start, beta_end: 0.0001, 2.0"),
    ("optimizer.name=lion", "optimizer.name: no optimizer 'lion'; there are adamw, adam, sgd"),
    ("optimizer.schedule=step", "optimizer.schedule: no 'step'; there is constant, cosine"),
    ("optimizer.decay_mask=none", "optimizer.decay_mask: no mask 'none'"),
    ("optimizer.learning_rate=nan", "optimizer.learning_rate: nan is not positive"),
    ("optimizer.b2=1.0", "optimizer.b2: 1.0 is not in [0, 1)"),
    ("optimizer.warmup_steps=-1", "optimizer.warmup_steps: -1 is negative"),
    ("objectives.denoising.weight=0", "objectives.<name>.weight: all are 0; there is nothing to train on"),
    ("objectives.denoising.label_dropout=2", "objectives.denoising.label_dropout: 2.0 is not in 0..1"),
    ("sampling.sampler=euler", "sampling.sampler: no 'euler'; there is ddim, ddpm"),
    ("sampling.steps=1001", "sampling.steps: 1001 is not in 1..1000 (diffusion.num_steps)"),
    ("sampling.guidance=2", "sampling.guidance: 2.0 without labels", "model.class_conditional"),
    ("sampling.sampler=heun", "sampling.sampler: no 'heun'; there is ddim, ddpm"),
    ("data.augment=1.5", "data.augment: 1.5 is not a probability"),
    ("data.augment=0.12", "data.augment: the network has to know the transformation", "set model.augment_dim to 9"),
    ("model.augment_dim=-1", "model.augment_dim: -1 is negative; 0 is none"),
    ("evals.samples.n=0", "evals.samples.n: 0 is not positive"),
    ("evals.probe.layer=out_9", "evals.probe.layer: no 'out_9'; there is in_1, in_2, mid, out_1, out_2, bottleneck"),
    ("evals.probe.images=0", "evals.probe.images: 0 is not positive"),
    ("evals.knn.level=1001", "evals.knn.level: 1001.0 is not a whole number in 0..1000"),
    ("evals.knn.k=0", "evals.knn.k: 0 is not positive"),
    ("probe.protocol=ofline", "probe.protocol: no 'ofline'; there is online, cached, imagenet"),
    ("probe.epochs=0", "probe.epochs: 0 is not positive; None is the protocol's own"),
    ("probe.held_out=1", "probe.held_out: 1.0 is not in [0, 1)"),
    ("probe.knn=-1", "probe.knn: -1 is negative; 0 asks no neighbours"),
    ("evals.heldout_loss.every=-1", "evals.heldout_loss.every: -1 is negative; 0 turns it off"),
    ("data.split=validation", "data.split: digits has no split 'validation'; use train or test"),
    ("data.eval_split=validation", "data.eval_split: digits has no split 'validation'; use train or test"),
    ("data.size=(8,)", "data.size: (8,) is not (height, width)"),
    ("data.name=folder", "data.data_dir: empty; give the image folder"),
    ("mesh.data=3", "mesh.data=3, mesh.fsdp=1, mesh.tensor=1: does not make 8 devices"),
    ("mesh.fsdp=0", "mesh.fsdp=0", "does not make 8 devices"),
    ("mesh.rules=(('nothing', ('fsdp',)),)", "mesh.rules: 'nothing' matches no parameter"),
    ("mesh.rules=(('.*', ('fsdq',)),)", "mesh.rules: no axis 'fsdq'; axes are data, fsdp, tensor"),
    ("mesh.rules=(('(', ('fsdp',)),)", "mesh.rules: ('(', ('fsdp',)) is not (regex, axes)"),
    ("mesh.rules=('.*',)", "mesh.rules: '.*' is not (regex, axes)"),
    ("init_from=/nowhere", "init_from: /nowhere: not a run directory (no config.json)"),
]


EDM_UNET = [  # the same, of a run of a UNet with EDM
    ("model.channels=48", "model.channels: 48 is not a multiple of 32, the groups of its norms"),
    ("model.mults=()", "model.attend, mults: (False, True), (): give one value each a resolution"),
    ("model.mults=(1, 0)", "model.attend, mults: (False, True), (1, 0): give one value each a resolution"),
    ("model.attend=(True,)", "model.attend, mults: (True,), (1, 2): give one value each a resolution"),
    ("model.blocks=0", "model.blocks: 0 is not positive"),
    ("model.dropout=1", "model.dropout: 1.0 is not in [0, 1)"),
    ("model.head_channels=48", "model.head_channels: 48 does not divide [128]"),
    ("model.bottleneck=mid_1", "model.bottleneck: no 'mid_1'; there is in_1, in_2, mid, out_1"),
    ("model.bottleneck=out_4", "model.bottleneck: no block follows 'out_4' to be conditioned; choose an earlier one"),
    ("model.patch_size=2", "--config.model.patch_size: no such field"),
    ("diffusion.sigma_min=100", "diffusion.sigma_min, sigma_max: 100.0, 80.0 do not rise above 0"),
    ("diffusion.sigma_data=0", "diffusion.sigma_data: 0.0 is not positive"),
    ("diffusion.time_input=t", "diffusion.time_input: no 't'; there is ln(sigma)/4"),
    ("sampling.sampler=ddim", "sampling.sampler: no 'ddim'; there is heun"),
    ("sampling.steps=0", "sampling.steps: 0 is not positive"),
    ("sampling.heun.s_churn=-1", "sampling.heun.s_churn: -1.0 is negative"),
    ("evals.probe.level=0", "evals.probe.level: 0.0 is not a positive sigma"),
]


@pytest.mark.parametrize(
    ("config", "given", "parts"),
    [(config, given, parts) for config, rows in ((CONFIG, FIELDS), (UNET, EDM_UNET)) for given, *parts in rows],
    ids=[given for given, *_ in FIELDS + EDM_UNET],
)
def test_bad_field(config, given, parts, tmp_path, monkeypatch):
    """Refused before data are read, anything is compiled or a directory is made."""
    monkeypatch.setattr(main, "compile_program", lambda *_, **__: pytest.fail("compiled"))
    monkeypatch.setattr(Dataset, "arrays", lambda _: pytest.fail("read the data"))
    workdir = tmp_path / "run"
    refused(main.main, [f"--config={config}", f"--workdir={workdir}", f"--config.{given}"], *parts)
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        (dict(mults=(1, 2, 2, 2, 2), attend=(False,) * 5), "model.mults: 5 resolutions halve images of 8x8"),
        (dict(class_conditional=True), "model.class_conditional: the data have no labels"),
    ],
)
def test_a_unet_that_does_not_fit_the_data(fields, part):
    config = schema.get_config()
    config.model = schema.unet(**fields)
    refused(lambda _: build.network(config, (8, 8, 1), 0), [], part)


CHANGED = "from ddaepp_jax import config\ndef get_config():\n    c = config.get_config()\n    {}\n    return c"
FILES = {
    "good.py": "from ddaepp_jax.config import get_config",
    "no_get_config.py": "x = 1",
    "no_variants.py": "from ddaepp_jax import config\ndef get_config():\n    return config.get_config()",
    "returns_none.py": "def get_config():\n    pass",
    "extra_group.py": CHANGED.format("c.modle = config.uvit()"),
    "extra_field.py": CHANGED.format("c.model.dpeth = 8"),
    "lacks.py": CHANGED.format("del c.train.log_every"),
    "text.txt": "hello",
    "bug.py": "def get_config():\n    return undefined_name",
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ("missing.py", ["--config: no file 'missing.py'; give a config file"]),
        ("", ["--config: no file ''"]),
        (".", ["--config: . is not a Python file"]),
        ("text.txt", ["--config: text.txt is not a Python file"]),
        ("no_get_config.py", ["--config: no_get_config.py has no function get_config"]),
        ("no_variants.py:tiny", ["--config: no_variants.py has no variants; leave :tiny out"]),
        ("good.py:huge", ["--config: this config has no variant 'huge'; it has tiny"]),
        ("returns_none.py", ["--config: get_config of returns_none.py returns a NoneType; let it return a ConfigDict"]),
        ("extra_group.py", ["modle: no such field; the fields of a config are", "model"]),
        ("extra_field.py", ["model.dpeth: no such field; the fields of model are", "depth"]),
        ("lacks.py", ["train.log_every: missing"]),
    ],
)
def test_bad_config_file(config, parts, files):
    refused(main.main, ["--workdir=run", f"--config={config}"], *parts)
    assert not (files / "run").exists()


def test_a_bug_in_a_config_file_keeps_its_traceback(files):
    with pytest.raises(NameError, match="undefined_name"):
        main.main(["--workdir=run", "--config=bug.py"])


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--workdri=x"], ["--workdri=x: not an argument of this program; see --help"]),
        (["stray"], ["stray: not an argument of this program; see --help"]),
        (["--workdir"], ["argument --workdir: expected one argument"]),
        (["--num_processes=two"], ["argument --num_processes: invalid int value: 'two'"]),
        (["--coordinator=somewhere"], ["--coordinator: 'somewhere' is neither HOST:PORT nor 'auto'"]),
        (["--process_id=2", "--coordinator=a:1", "--num_processes=2"], ["--process_id: 2 is not in 0..1"]),
    ],
)
def test_bad_argument(arguments, parts):
    refused(main.main, arguments, *parts)


def test_missing_data(tmp_path):
    data, workdir = tmp_path / "data", tmp_path / "run"
    arguments = [f"--workdir={workdir}", "--config.data.name=folder", f"--config.data.data_dir={data}"]
    refused(main.main, arguments, f"data.data_dir: {data} is not a folder")
    data.mkdir()
    refused(main.main, arguments, f"data.data_dir: {data} holds no", "give another folder")
    assert not workdir.exists()


def test_class_conditional_without_labels(tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "data" / split / "0.png")
    fields = ("data.name=folder", f"data.data_dir={tmp_path / 'data'}", "model.class_conditional=True")
    arguments = [f"--workdir={tmp_path / 'run'}", *(f"--config.{field}" for field in fields)]
    refused(main.main, arguments, "model.class_conditional: the data have no labels; set it to False")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("digitz", ["data.name: TensorFlow Datasets has no 'digitz'", "mend it"]),
        ("no such set", ["data.name: 'no such set' is not of the form name"]),
    ],
)
def test_unknown_data(name, parts, tmp_path):
    arguments = [f"--workdir={tmp_path / 'run'}", f"--config.data.name={name}", f"--config.data.data_dir={tmp_path}"]
    refused(main.main, arguments, *parts)
    assert not (tmp_path / "run").exists()


def test_bad_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    refused(main.main, [TINY, f"--workdir={tmp_path / 'file' / 'run'}"], "--workdir: cannot write", "(Not a directory)")
    refused(main.main, [TINY, f"--workdir={tmp_path}"], f"--workdir: {tmp_path} is not empty and not a run directory")


FOREIGN = ["", "{", "[]", "3", "{}", '{"seed": 0}', '{"seed": "a"}', "\xff\0"]


@pytest.mark.parametrize("text", FOREIGN)
@pytest.mark.parametrize("program", [main.main, sample.main, linear_probe.main])
def test_foreign_config_json(program, text, tmp_path):
    (tmp_path / "config.json").write_bytes(text.encode("latin1"))
    arguments = [TINY] if program is main.main else []
    refused(program, [*arguments, f"--workdir={tmp_path}"], f"{tmp_path / 'config.json'}: not the config of a run")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["the following arguments are required: --workdir"]),
        (["--workdir=x", "--nn=3"], ["unrecognized arguments: --nn=3"]),
        (["--workdir=x", "--n=many"], ["argument --n: invalid int value: 'many'"]),
        (["--workdir=x", "--labels=cat"], ["argument --labels: 'cat' is not ints with commas between"]),
        (["--workdir=x", "--columns=-1"], ["--columns: -1 is negative"]),
        (["--workdir=x"], ["x: not a run directory (no config.json); give the --workdir of a training run"]),
    ],
)
def test_sample_without_a_run(arguments, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(sample.main, arguments, *parts)


def test_no_checkpoint_yet(tmp_path):
    (tmp_path / "config.json").write_text(schema.to_json(schema.get_config("tiny")))
    refused(sample.main, [f"--workdir={tmp_path}"], f"{tmp_path / 'checkpoints'}: no checkpoint")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--n=0"], ["n: 0 is not positive"]),
        (["--batch_size=0"], ["batch_size: 0 is not positive"]),
        (["--seed=-1"], ["seed: -1 is not in 0..2**32-1"]),
        (["--first=-1"], ["first: -1 is not in 0.."]),
        (["--steps=0"], ["steps: 0 is not in 1..1000"]),
        (["--steps=1001"], ["steps: 1001 is not in 1..1000"]),
        (["--sampler="], ["sampler: no ''; there is ddim, ddpm"]),
        (["--options=eta=1"], ["options: no 'eta'; there is clip"]),
        (["--sampler=ddim", "--options=table=edm"], ["sampling.ddim.table: no 'edm'; there is standard, ddae"]),
        (["--options=clip=no"], ["options: clip='no' is not a bool"]),
        (["--options=clip"], ["argument --options: 'clip' is not options with commas between"]),
        (["--sampler=heun"], ["sampler: no 'heun'; there is ddim, ddpm"]),
        (["--step=fid"], ["step: no 'fid'; there is heldout_loss, probe"]),
        (["--step=99"], ["step: no checkpoint 99 in", "the newest is 4"]),
        (["--decay=0.5"], ["decay: no average 0.5;", "ema.decays=(0.999,)"]),
        (["--guidance=2"], ["guidance: this run was trained without labels", "leave it out"]),
        (["--labels=3"], ["labels: this run was trained without labels", "leave it out"]),
        (["--out=/dev/null/x"], ["--out: cannot write /dev/null/x", "give another"]),
    ],
)
def test_sample_from_a_run(arguments, parts, trained):
    refused(sample.main, [f"--workdir={trained}", *arguments], *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--protocol=ofline"], ["protocol: no 'ofline'; there is online, cached, imagenet"]),
        (["--layers=out_9"], ["layers: no 'out_9'; there is in_1, mid, out_1, bottleneck"]),
        (["--levels=11,1001"], ["noise_level: 1001.0 is not a whole number in 0..1000"]),
        (["--levels=low"], ["argument --levels: 'low' is not floats with commas between"]),
        (["--held_out=1"], ["held_out: 1.0 is not in [0, 1)"]),
        (["--held_out=0.0001"], ["held_out: 0.0001 of 1500 images are 0; change it"]),
        (["--held_out=0.9999"], ["held_out: 0.9999 of 1500 images are 1500; change it"]),
        (["--epochs=0"], ["epochs: 0 is not positive"]),
        (["--batch_size=0"], ["batch_size: 0 is not positive"]),
        (["--protocol=online", "--batch_size=12"], ["batch_size: 12 is not a multiple of 8, the number of devices"]),
        (["--learning_rates=1e-3,0"], ["learning_rates: (0.001, 0.0) is not positive numbers"]),
        (["--learning_rates=fast"], ["argument --learning_rates: 'fast' is not floats"]),
        (["--standardise=maybe"], ["argument --standardise: 'maybe' is neither True nor False"]),
        (["--l2=-1"], ["l2: -1.0 is not 0 or positive"]),
        (["--knn=-1"], ["knn: -1 is not 0 (none) or positive"]),
        (["--seed=-1"], ["seed: -1 is not in 0..2**32-1"]),
        (["--step=fid"], ["step: no 'fid'; there is heldout_loss, probe"]),
        (["--out=/dev/null/x"], ["--out: cannot write /dev/null/x", "give another"]),
        (["--data_dir=x", "--nn=3"], ["unrecognized arguments: --nn=3"]),
    ],
)
def test_probe_of_a_run(arguments, parts, trained, monkeypatch):
    monkeypatch.setattr(linear_probe, "store", lambda *_, **__: pytest.fail("made features"))
    refused(linear_probe.main, [f"--workdir={trained}", *arguments], *parts)


def test_probe_of_what_is_no_run(tmp_path):
    refused(linear_probe.main, [], "the following arguments are required: --workdir")
    refused(linear_probe.main, [f"--workdir={tmp_path}"], f"{tmp_path}: not a run directory (no config.json)")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "not a probe's results; remove it or give another --out"),
        ("[]", "not a probe's results"),
        (
            '{"settings": {"step": 3}, "rows": [], "seconds": {}}',
            "(step: 3 -> 4; decay: None -> 0.999; fresh: None -> False and 12 more)",
        ),
    ],
)
def test_probe_onto_other_results(text, part, trained, tmp_path):
    (tmp_path / "probe.json").write_text(text)
    refused(
        linear_probe.main, [f"--workdir={trained}", f"--out={tmp_path / 'probe'}"], str(tmp_path / "probe.json"), part
    )


def test_probe_of_unlabelled_and_of_other_images(damaged, tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for i in range(20):
            path = tmp_path / "data" / split / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), i, np.uint8)).save(path)
    config = json.loads((damaged / "config.json").read_text())
    config["data"] |= {"name": "folder", "data_dir": str(tmp_path / "nowhere")}
    (damaged / "config.json").write_text(json.dumps(config))
    refused(linear_probe.main, [f"--workdir={damaged}"], f"data.data_dir: {tmp_path / 'nowhere'} is not a folder")
    arguments = [f"--workdir={damaged}", f"--data_dir={tmp_path / 'data'}"]
    refused(linear_probe.main, arguments, f"data.name: {tmp_path / 'data'} has no labels; a probe needs them")
    for split in ("train", "test"):
        for i in range(20):
            path = tmp_path / "data" / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 12), i, np.uint8)).save(path)
            (tmp_path / "data" / split / f"{i}.png").unlink()
    refused(linear_probe.main, arguments, "data.data_dir: images of (8, 12, 1); the run has (8, 8, 1)")


def test_run_checks_its_arguments(trained):
    run = ddaepp_jax.load(trained)
    images = np.zeros((2, 8, 8, 1), np.uint8)
    for arguments, part in [
        ((images.astype(np.float32), 11), "images: float32 (2, 8, 8, 1); give uint8 of shape (N, 8, 8, 1)"),
        ((images[..., 0], 11), "images: uint8 (2, 8, 8)"),
        ((images[:0], 11), "number of images: 0 is not positive"),
        ((images, 11.5), "noise_level: 11.5 is not a whole number in 0..1000"),
        ((images, 1001), "noise_level: 1001 is not"),
        ((images, float("nan")), "noise_level: nan is not"),
        ((images, 11, ["out_9"]), "layers: no 'out_9'; there is in_1, mid, out_1, bottleneck"),
        ((images, 11, ["mid"], -1), "seed: -1 is not in"),
        ((images, 11, ["mid"], 0, 0), "draws: 0 is not positive"),
    ]:
        refused(lambda _, arguments=arguments: run.features(*arguments), [], part)


def test_labels_of_a_conditional_run(trained):
    run = ddaepp_jax.load(trained)
    with run.config.unlocked():
        run.config.model.class_conditional = True  # labels are looked at before the network is
    for labels, part in [
        (10, "labels: 10 is not in 0..9"),
        ([3, -1], "labels: -1 is not in 0..9"),
        ([3, 4, 5], "labels: int64 (3,); give a class, or 2 of them, one an image"),
        (1.5, "labels: float64 (); give a class"),
    ]:
        refused(lambda _, labels=labels: run.sample(n=2, labels=labels), [], part)


def test_resume_with_another_config(trained):
    arguments = [TINY, f"--workdir={trained}", "--config.model.width=64", "--config.seed=1"]
    refused(main.main, arguments, "config.json: this run has another config", "model.width: 32 -> 64; seed: 0 -> 1")
    assert json.loads((trained / "config.json").read_text())["seed"] == 0


def test_init_from_another_width(trained, tmp_path):
    arguments = [TINY, f"--workdir={tmp_path / 'run'}", f"--config.init_from={trained}", "--config.model.width=64"]
    refused(main.main, arguments, "init_from: ", "there and", "the models differ")
    assert not (tmp_path / "run").exists()


def _foreign_tree(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(checkpoints / "7", {"weights": np.zeros(3)})


def _garbage(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints)
    (checkpoints / "7").mkdir(parents=True)
    (checkpoints / "7" / "garbage").write_text("garbage")


def _no_ema(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints / "4" / "ema")


@pytest.mark.parametrize("damage", [_foreign_tree, _garbage, _no_ema])
def test_sample_from_a_damaged_checkpoint(damage, damaged):
    damage(damaged / "checkpoints")
    refused(sample.main, [f"--workdir={damaged}"], str(damaged / "checkpoints"), "not a readable checkpoint")


@pytest.mark.slow
@pytest.mark.parametrize("damage", [_foreign_tree, _garbage])
def test_resume_from_a_foreign_checkpoint(damage, damaged):
    damage(damaged / "checkpoints")
    refused(main.main, [TINY, f"--workdir={damaged}"], str(damaged / "checkpoints/7"), "train into another --workdir")


def program(module, *arguments, **environment):
    """A program in a process of its own: its exit code and its lines on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", f"ddaepp_jax.{module}", *map(str, arguments)],
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments", "line"),
    [
        ("main", ["--config.modle.depth=8"], "error: --config.modle.depth: no such field; did you mean model.depth?"),
        ("main", ["--config.train.batch_size=12"], "error: train.batch_size: 12 is not a multiple of 8, the devices"),
        ("main", ["--config.data.name=digitz"], "error: data.name: TensorFlow Datasets has no 'digitz'"),
        ("sample", ["--workdir=nowhere"], "error: nowhere: not a run directory (no config.json)"),
        ("linear_probe", ["--workdir=nowhere"], "error: nowhere: not a run directory (no config.json)"),
        ("sample", ["--n=many"], "error: argument --n: invalid int value: 'many'"),
    ],
)
def test_one_line_and_exit_code_2(module, arguments, line):
    code, lines = program(module, *arguments, JAX_NUM_CPU_DEVICES="8")
    assert code == 2 and len(lines) == 1 and lines[0].startswith(line), lines


@pytest.mark.slow
def test_damaged_run_in_a_process_of_its_own(damaged):
    _foreign_tree(damaged / "checkpoints")
    code, lines = program("sample", f"--workdir={damaged}")
    assert code == 2 and len(lines) == 1 and lines[0].startswith(f"error: {damaged}"), lines


@pytest.mark.slow
def test_no_network(tmp_path):
    """TFDS reports its retries before; the last line is ours."""
    offline = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    fields = ("--config.data.name=cifar10", f"--config.data.data_dir={tmp_path / 'data'}")
    code, lines = program("main", f"--workdir={tmp_path / 'run'}", *fields, **offline)
    assert code == 2 and lines[-1].startswith(f"error: data.data_dir: {tmp_path / 'data'}"), lines
    assert not any(line.startswith("Traceback") for line in lines) and not (tmp_path / "run").exists()
