"""Bad arguments of the sampling program and of an opened run."""

import numpy as np
import pytest
from refusals import refused

import ddaepp_jax
from ddaepp_jax import config as schema
from ddaepp_jax import sample


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
