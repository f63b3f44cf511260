"""Bad arguments of the sampling program and of an opened run."""

import numpy as np
import pytest
from helpers.errors import check_refused

import ddaepp_jax
from ddaepp_jax import config as schema
from ddaepp_jax import run_config, sample
from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.diffusion.flow import Flow


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
    check_refused(sample.main, arguments, *parts)


def test_no_checkpoint_yet(tmp_path):
    (tmp_path / "config.json").write_text(run_config.to_json(schema.get_config("tiny")))
    check_refused(sample.main, [f"--workdir={tmp_path}"], f"{tmp_path / 'checkpoints'}: no checkpoint")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--n=0"], ["n: 0 is not positive"]),
        (["--batch_size=0"], ["batch_size: 0 is not positive"]),
        (["--seed=-1"], ["seed: -1 is not in 0..2**32-1"]),
        (["--first=-1"], ["first: -1 is not in 0.."]),
        (["--steps=0"], ["steps: 0 is not in 1..1000"]),
        (["--steps=1001"], ["steps: 1001 is not in 1..1000"]),
        (["--sampler="], ["sampler: no ''; there is ddim, ddpm, dpmpp_2m"]),
        (["--options=eta=1"], ["options: no 'eta'; there is clip"]),
        (["--sampler=ddim", "--options=table=edm"], ["sampling.ddim.table: no 'edm'; there is standard, ddae"]),
        (["--options=clip=no"], ["options: clip='no' is not a bool"]),
        (["--options=clip"], ["argument --options: 'clip' is not options with commas between"]),
        (["--sampler=heun"], ["sampler: no 'heun'; there is ddim, ddpm, dpmpp_2m"]),
        (["--sampler=dpmpp_2m", "--options=shift=0.3"], ["options: no 'shift'; there is clip"]),
        (["--step=accuracy"], ["step: no 'accuracy'; there is heldout_loss, probe, fid"]),
        (["--step=99"], ["step: no checkpoint 99 in", "the newest is 4"]),
        (["--decay=0.5"], ["decay: no average 0.5;", "ema.decays=(0.999,)"]),
        (["--sigma_rel=0.05"], ["sigma_rel: no average 0.05, and no snapshot at or before step 4", "ema.sigma_rel=()"]),
        (["--sigma_rel=0.05", "--decay=0.999"], ["decay, sigma_rel: 0.999 and 0.05 given; give one of them"]),
        (["--sigma_rel=0.5"], ["sigma_rel: 0.5 is not from 0.001 to below 0.2887"]),
        (["--sigma_rel=nan"], ["sigma_rel: nan is not from"]),
        (["--guidance=2"], ["guidance: this run was trained without labels", "leave it out"]),
        (["--guidance_interval=low"], ["argument --guidance_interval: 'low' is not floats with commas between"]),
        (["--guidance_interval=9"], ["guidance_interval: (9.0,) is not two rising levels, e.g. (0.1, 1.0)"]),
        (["--guidance_channels=-1"], ["guidance_channels: -1 is negative; 0 guides all"]),
        (["--guidance_channels=2"], ["guidance_channels: 2, but images have 1; 0 guides all"]),
        (["--autoguidance=2"], ["autoguidance: 2.0 without a guide; give guide"]),
        (["--guide=x"], ["x: not a run directory"]),
        (["--labels=3"], ["labels: this run was trained without labels", "leave it out"]),
        (["--out=/dev/null/x"], ["--out: cannot write /dev/null/x", "give another"]),
    ],
)
def test_sample_from_a_run(arguments, parts, trained):
    check_refused(sample.main, [f"--workdir={trained}", *arguments], *parts)


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
        check_refused(lambda _, arguments=arguments: run.features(*arguments), [], part)


def test_a_guide_has_to_estimate_the_same(trained):
    run, guide = ddaepp_jax.load(trained), ddaepp_jax.load(trained)
    sample = lambda scale: lambda _: run.sample(n=1, guide=guide, autoguidance=scale)
    check_refused(sample(1), [], "guide: given, but autoguidance is 1, which is none; give a scale, e.g. 2")
    guide.image_shape = (8, 8, 3)
    check_refused(sample(2), [], f"guide: {trained} differs in the shape of its images: (8, 8, 3), not (8, 8, 1)")
    guide = ddaepp_jax.load(trained)
    guide.process = DDPM(beta_end=0.03, time_input="t")
    check_refused(sample(2), [], f"guide: {trained} differs in its process: DDPM(", "beta_end=0.03", "not DDPM(")
    guide.process = Flow()
    check_refused(sample(2), [], f"guide: {trained} differs in its process: Flow(", "not DDPM(")
    guide = ddaepp_jax.load(trained)
    with guide.config.unlocked():
        guide.config.model.class_conditional = True
    check_refused(sample(2), [], f"guide: {trained} differs in the number of its labels: 10, not 0")


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
        check_refused(lambda _, labels=labels: run.sample(n=2, labels=labels), [], part)
