"""Bad arguments of the sampling program and of an opened run."""

from types import SimpleNamespace

import numpy as np
import pytest
from helpers.errors import expect_error

import ddaepp_jax
from ddaepp_jax import config as schema
from ddaepp_jax import sample
from ddaepp_jax.base.errors import NonFiniteError
from ddaepp_jax.config import saved as run_config
from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.diffusion.flow import Flow


@pytest.fixture(scope="module")
def opened(plain):
    """The plain run, opened once; nothing is drawn from it."""
    return ddaepp_jax.load(plain)


# ---- arguments of the program ----


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        ([], "the following arguments", ["--workdir"]),
        (["--workdir=x", "--nn=3"], "unrecognized", ["--nn=3"]),
        (["--workdir=x", "--n=many"], "argument --n", ["'many'"]),
        (["--workdir=x", "--labels=cat"], "argument --labels", ["'cat'", "comma"]),
        (["--workdir=x", "--options=clip"], "argument --options", ["'clip'", "comma"]),
        (
            ["--workdir=x", "--guidance_interval=low"],
            "argument --guidance_interval",
            ["'low'", "comma"],
        ),
        (["--workdir=x", "--columns=-1"], "--columns", ["-1", "negative"]),
        (["--workdir=x"], "x", ["config.json", "--workdir"]),
    ],
)
def test_sample_without_a_run(arguments, field, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with expect_error(field, *words):
        sample.main(arguments)


def test_no_checkpoint_yet(tmp_path):
    (tmp_path / "config.json").write_text(run_config.to_json(schema.get_config("tiny")))
    with expect_error(f"{tmp_path / 'checkpoints'}", "train.checkpoint_every"):
        sample.main([f"--workdir={tmp_path}"])


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        (["--n=0"], "n", ["0", "positive"]),
        (["--seed=-1"], "seed", ["-1", "2**32"]),
        (["--first=-1"], "first", ["-1", "2**31"]),
        (["--sampler="], "sampler", ["''", "ddim"]),
        (["--options=eta=1"], "options", ["'eta'", "clip"]),
        (["--options=clip=no"], "options", ["clip", "'no'"]),
        (["--guidance=nan"], "argument --guidance", ["'nan'", "finite"]),
        (["--autoguidance=inf"], "argument --autoguidance", ["'inf'", "finite"]),
        (["--options=clip=True,clip=False"], "argument --options", ["clip", "2 times"]),
        (["--guide=cloud://bucket/run"], "workdir", ["cloud://bucket/run", "address"]),
        (["--guidance=2"], "guidance", ["labels"]),
        (["--guidance_interval=9"], "guidance_interval", ["(9.0,)", "rising"]),
        (["--labels=3"], "labels", ["without labels"]),
        (["--step=99"], "step", ["99", "newest"]),
        (["--decay=0.5"], "decay", ["0.5", "0.999"]),
        (["--sigma_rel=0.5"], "sigma_rel", ["0.5", "0.2887"]),
        (["--guide=x"], "x", ["config.json"]),
        (["--out=/dev/null/x"], "--out", ["in /dev/null ", "another"]),
    ],
)
def test_sample_from_a_run(arguments, field, words, plain):
    with expect_error(field, *words):
        sample.main([f"--workdir={plain}", *arguments])


def test_outputs_of_other_settings_are_kept(damaged, tmp_path, monkeypatch):
    """Each setting has files of its own by default, and --out does not overwrite others'."""
    drawn = []

    def draw(self, n, **settings):
        drawn.append(n)
        return np.zeros((n, 8, 8, 1), np.uint8)

    monkeypatch.setattr(ddaepp_jax.Run, "sample", draw)
    start = [f"--workdir={damaged}", "--n=2"]
    for more in (
        [],
        ["--n=3"],
        ["--seed=1"],
        ["--first=5"],
        ["--steps=3"],
        ["--options=clip=False"],
    ):
        sample.main([*start, *more])
    samples = damaged / "samples"
    assert len(list(samples.glob("step6-*.npz"))) == 6
    assert (samples / "step6-ema0.999-ddpm4-n2-seed0-first5.png").is_file()
    out = f"--out={tmp_path / 'deep' / 'images'}"
    sample.main([*start, out])
    sample.main([*start, out])
    with expect_error(f"{tmp_path}", "seed: 0 -> 1", "another --out"):
        sample.main([*start, out, "--seed=1"])
    (tmp_path / "other.png").write_text("")
    with expect_error("--out", "other", "without settings"):
        sample.main([*start, f"--out={tmp_path / 'other'}"])
    with expect_error("--out", "deep", "folder"):
        sample.main([*start, f"--out={tmp_path / 'deep'}"])
    (tmp_path / "x.npz").mkdir()
    with expect_error("--out", "folder"):
        sample.main([*start, f"--out={tmp_path / 'x'}"])
    monkeypatch.setattr(sample.shutil, "disk_usage", lambda _: SimpleNamespace(free=9))
    with expect_error("--out", "No space left"):
        sample.main([*start, f"--out={tmp_path / 'y'}"])
    settings = (damaged / "config.json").read_text()
    with expect_error(f"{damaged / 'config.json'}", "no", "another --out"):
        sample.main([*start, f"--out={damaged / 'config'}"])
    assert (damaged / "config.json").read_text() == settings
    for place in ("checkpoints/6/x", "checkpoints/9/x", "snapshots/x"):
        with expect_error("argument --out", "training alone", "another"):
            sample.main([*start, f"--out={damaged / place}"])
    assert not (damaged / "checkpoints" / "9").exists()
    assert len(drawn) == 8, "nothing is drawn before a refusal"


# ---- what is opened ----


@pytest.mark.parametrize(
    ("chosen", "field", "words"),
    [
        (dict(step="accuracy"), "step", ["'accuracy'", "heldout_loss"]),
        (dict(step=99), "step", ["99", "newest"]),
        (dict(decay=0.5), "decay", ["0.5", "0.999"]),
        (dict(sigma_rel=0.05), "sigma_rel", ["0.05", "ema.sigma_rel=()", "ema.snapshot_every"]),
        (dict(sigma_rel=0.05, decay=0.999), "decay", ["sigma_rel", "0.999", "0.05", "one"]),
        (dict(sigma_rel=0.5), "sigma_rel", ["0.5", "0.2887"]),
        (dict(sigma_rel=float("nan")), "sigma_rel", ["nan", "0.2887"]),
        (dict(sigma_rel="0.1"), "sigma_rel", ["'0.1'", "0.2887"]),
        (dict(step=1.5), "step", ["1.5", "whole"]),
        (dict(step=[4]), "step", ["[4]", "whole"]),
        (dict(step="²"), "step", ["'²'", "heldout_loss"]),
        (dict(decay=np.ones((9, 9))), "decay", ["array", "finite"]),
    ],
)
def test_weights_that_are_not_there(chosen, field, words, plain):
    with expect_error(field, *words):
        ddaepp_jax.load(plain, **chosen)


# ---- samples and features of an opened run ----


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        (dict(n=0), "n", ["0", "positive"]),
        (dict(n=2.5), "n", ["2.5", "whole"]),
        (dict(n=True), "n", ["True", "whole"]),
        (dict(n=2**40), "n", ["2**31-1"]),
        (dict(n=2, first=2**31 - 1), "first", ["n=2"]),
        (dict(seed=1.5), "seed", ["1.5", "whole"]),
        (dict(steps=2.5), "steps", ["2.5", "whole"]),
        (dict(batch_size=True), "batch_size", ["True", "whole"]),
        (dict(guidance_interval=3), "guidance_interval", ["3", "two levels"]),
        (dict(guide="runs/small", autoguidance=2), "guide", ["'runs/small'", "load"]),
        (dict(sampler=3), "sampler", ["3", "ddim"]),
        (dict(sampler="dimm"), "sampler", ["'dimm'", "did you mean ddim?"]),
        (dict(batch_size=0), "batch_size", ["positive"]),
        (dict(seed=-1), "seed", ["-1", "2**32"]),
        (dict(first=-1), "first", ["-1", "2**31"]),
        (dict(steps=0), "steps", ["0", "1000"]),
        (dict(steps=1001), "steps", ["1001", "1000"]),
        (dict(sampler=""), "sampler", ["''", "ddim"]),
        (dict(sampler="heun"), "sampler", ["'heun'", "dpmpp_2m"]),
        (dict(options=dict(eta=1)), "options", ["'eta'", "clip"]),
        (dict(options=dict(clip="no")), "options", ["clip", "'no'"]),
        (dict(sampler="ddim", options=dict(table="edm")), "sampling.ddim.table", ["'edm'", "ddae"]),
        (dict(sampler="dpmpp_2m", options=dict(shift=0.3)), "options", ["'shift'", "clip"]),
        (dict(guidance=2.0), "guidance", ["labels"]),
        (dict(guidance_interval=(9.0,)), "guidance_interval", ["(9.0,)", "rising"]),
        (dict(guidance_channels=-1), "guidance_channels", ["-1", "negative"]),
        (dict(guidance_channels=2), "guidance_channels", ["2", "1"]),
        (dict(autoguidance=2.0), "autoguidance", ["2.0", "needs", "guide"]),
        (dict(labels=[3]), "labels", ["without labels"]),
        (dict(n=np.int32(2), first=np.int32(2**31 - 1)), "first", ["n=2"]),
        (dict(steps=np.array([2, 3])), "steps", ["array([2, 3])", "whole"]),
        (dict(sampler=["ddim"]), "sampler", ["['ddim']", "ddim, "]),
        (dict(guidance=np.ones((9, 9))), "guidance", ["array", "finite"]),
        (dict(guidance=10**400), "guidance", ["0000", "finite"]),
        (dict(guidance=1e39), "guidance", ["1e+39", "finite"]),
        (dict(autoguidance="strong"), "autoguidance", ["'strong'", "finite"]),
        (dict(options="clip"), "options", ["'clip'", "dictionary"]),
        (dict(options=dict(clip=np.ones(2))), "options", ["clip", "bool"]),
    ],
)
def test_samples(arguments, field, words, opened):
    with expect_error(field, *words):
        opened.sample(**arguments)


def test_numbers_of_numpy(run):
    """Numbers of any integer or floating type mean what Python's mean, near their largest too."""
    expected = run.sample(n=2, steps=2, first=127)
    settings = dict(steps=np.int64(2), guidance=np.float32(1), options=dict(clip=np.bool_(True)))
    drawn = run.sample(n=np.uint8(2), first=np.int8(127), batch_size=np.uint8(255), **settings)
    np.testing.assert_array_equal(drawn, expected)
    features = run.features(drawn, np.int8(11), ["mid"], batch_size=np.uint8(200))
    np.testing.assert_array_equal(features["mid"], run.features(expected, 11, ["mid"])["mid"])


def test_images_that_are_not_finite_are_not_black(run, monkeypatch):
    monkeypatch.setattr(run, "params", {**run.params})
    final = run.params["norm"]
    run.params["norm"] = {name: leaf * np.nan for name, leaf in final.items()}
    with pytest.raises(NonFiniteError, match=r"2 of 2 images .* guidance"):
        run.sample(n=2, steps=5)


@pytest.mark.parametrize("workdir", [None, 3, "", "a\0b", b"run", "x" * 300, "a\nb", "run\n"])
def test_a_workdir_that_is_no_local_path(workdir):
    with expect_error("workdir", "give"):
        ddaepp_jax.load(workdir)


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        (dict(guidance_interval=(0.1, 1.0)), ["0.1", "whole", "1000"]),
        (dict(guidance_interval=(752, 1000)), ["no level", "752, 1000", "1..751", "(t)"]),
        (dict(guidance_interval=(-9, 0)), ["-9", "0..1000"]),
        (dict(guidance_interval=(5, 5)), ["(5, 5)", "rising"]),
        (dict(guidance=float("nan")), ["nan", "finite"]),
        (dict(guidance="2"), ["'2'", "finite"]),
    ],
)
def test_guidance_that_guides_nothing(sampling, words, run):
    with expect_error("guidance", *words):
        run.sample(n=2, sampler="ddim", steps=4, **{"guidance": 2.0} | sampling)


IMAGES = np.zeros((2, 8, 8, 1), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        ((IMAGES.astype(np.float32), 11), "images", ["float32", "uint8", "8, 8, 1"]),
        ((IMAGES[..., 0], 11), "images", ["(2, 8, 8)", "8, 8, 1"]),
        ((IMAGES[:0], 11), "images", ["(0, 8, 8, 1)", "1 or more"]),
        ((IMAGES / 255, 11), "images", ["float64", "uint8"]),
        ((IMAGES.astype(object), 11), "images", ["object", "uint8"]),
        (([IMAGES[0], IMAGES[0, :4]], 11), "images", ["no array"]),
        ((None, 11), "images", ["object ()", "uint8"]),
        ((IMAGES, None), "noise_level", ["None", "not a number"]),
        ((IMAGES, "low"), "noise_level", ["'low'", "not a number"]),
        ((IMAGES, 10**400), "noise_level", ["1000", "not a number"]),
        ((IMAGES, [1, 2]), "noise_level", ["[1, 2]", "not a number"]),
        ((IMAGES, 11, []), "layers", ["[]", "['bottleneck']"]),
        ((IMAGES, 11, "bottleneck"), "layers", ["'bottleneck'", "list"]),
        ((IMAGES, 11, 5), "layers", ["5", "list"]),
        ((IMAGES, 11.5), "noise_level", ["11.5", "whole", "1000"]),
        ((IMAGES, 1001), "noise_level", ["1001", "1000"]),
        ((IMAGES, float("nan")), "noise_level", ["nan", "1000"]),
        ((IMAGES, 11, ["out_9"]), "layers", ["'out_9'", "bottleneck"]),
        ((IMAGES, 11, ["mid"], -1), "seed", ["-1", "2**32"]),
        ((IMAGES, 11, ["mid"], 0, 0), "draws", ["positive"]),
    ],
)
def test_features(arguments, field, words, opened):
    with expect_error(field, *words):
        opened.features(*arguments)


@pytest.fixture
def guide(plain):
    """The plain run once more, for a test to change it."""
    return ddaepp_jax.load(plain)


def test_a_guide_without_a_scale(opened, guide):
    with expect_error("guide", "autoguidance is 1"):
        opened.sample(n=1, guide=guide, autoguidance=1)


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("image_shape", (8, 8, 3), ["(8, 8, 3)", "(8, 8, 1)"]),
        ("process", DDPM(beta_end=0.03, time_input="t"), ["DDPM(", "beta_end=0.03"]),
        ("process", Flow(), ["Flow(", "DDPM("]),
    ],
)
def test_a_guide_that_estimates_something_else(attribute, value, words, opened, guide):
    setattr(guide, attribute, value)
    with expect_error("guide", f"{guide.workdir}", *words):
        opened.sample(n=1, guide=guide, autoguidance=2)


def test_a_guide_with_labels(opened, guide):
    guide.module = guide.module.clone(num_classes=10)
    with expect_error("guide", f"{guide.workdir}", "labels (10, not 0)"):
        opened.sample(n=1, guide=guide, autoguidance=2)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (10, ["10", "0..9"]),
        ([3, -1], ["-1", "0..9"]),
        ([3, 4, 5], ["(3,)", "2"]),
        (1.5, ["float64", "class"]),
    ],
)
def test_labels_of_a_conditional_run(labels, words, run):
    with expect_error("labels", *words):
        run.sample(n=2, labels=labels)
