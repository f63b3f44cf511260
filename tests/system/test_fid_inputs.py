"""Bad arguments, images, references and extractors of the scoring program."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import serialization
from helpers.errors import TINY, check_refused
from helpers.extractor import CLASSIFIER, SHAPE, untrained_classifier
from PIL import Image

from ddaepp_jax import convert, fid, main
from ddaepp_jax.evaluation import extractors


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    """An untrained classifier of digits."""
    return untrained_classifier(tmp_path_factory.mktemp("extractor") / "wrn")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--n=9"], ["--n: 9 images are too few to be scored; give 10 or more"]),
        (["--n=many"], ["argument --n: invalid int value: 'many'"]),
        (["--seeds=0,0"], ["--seeds: (0, 0) are not different numbers in 0..2**32-1"]),
        (["--seeds=-1"], ["--seeds: (-1,) are not different numbers"]),
        (["--images=digits:test"], ["--workdir, --images: give one of them"]),
        (["--extractor=vgg"], ["extractor: no 'vgg'; there is inception, classifier, or the directory of one"]),
        (["--resizing=tensorflow1"], ["--resizing: 'tensorflow1', but a classifier takes images as they are"]),
        (["--resizing=bicubic"], ["resizing: no 'bicubic'; there is pytorch, tensorflow1"]),
        (["--reference=validation"], ["data.split: digits has no split 'validation'; use train or test"]),
        (["--reference=nowhere.npz"], ["nowhere.npz: not an .npz file that can be read"]),
        (["--sampler=heun"], ["sampler: no 'heun'; there is ddim, ddpm, dpmpp_2m"]),
        (["--steps=0"], ["steps: 0"]),
        (["--guidance=2"], ["guidance: this run was trained without labels"]),
        (["--out=/dev/null/x"], ["--out: cannot write /dev/null/x", "give another"]),
        (["--size=8"], ["data.size: (8,) is not (height, width)"]),
        (["--seed=3"], ["unrecognized arguments: --seed=3"]),
    ],
)
def test_scores_of_a_run(arguments, parts, trained, extractor):
    check_refused(fid.main, [f"--workdir={trained}", f"--extractor={extractor}", *arguments], *parts)


def test_scores_of_nothing(tmp_path, extractor):
    check_refused(fid.main, [], "--workdir, --images: give one of them, the run or the images that are scored")
    check_refused(fid.main, [f"--workdir={tmp_path}"], f"{tmp_path}: not a run directory (no config.json)")
    images = ["--images=digits:test", "--reference=digits:test"]
    check_refused(
        fid.main, [*images, "--npz", "--steps=5"], "--steps, --npz: of a run, and --images are scored as they are"
    )
    arguments = ["--images=digits:test", "--reference=x.npz", "--extractor=classifier"]
    check_refused(fid.main, arguments, "--extractor: a classifier of which data? Say it by --reference=NAME:SPLIT")
    check_refused(fid.main, ["--images=digits:test"], "--reference: missing; give what the images are compared with")


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (dict(arr_0=np.zeros((12, 8, 8, 1), np.float32)), "images are float32 of shape (12, 8, 8, 1); give uint8"),
        (
            dict(arr_0=np.zeros((12, 8, 8), np.uint8)),
            "images are uint8 of shape (12, 8, 8); give uint8 of (N, H, W, C)",
        ),
        (dict(arr_0=np.zeros((0, 8, 8, 1), np.uint8)), "images are uint8 of shape (0, 8, 8, 1)"),
        (dict(pictures=np.zeros((12, 8, 8, 1), np.uint8)), "no array arr_0 or images but pictures"),
        (dict(arr_0=np.zeros((9, 8, 8, 1), np.uint8)), "9 images are too few to be scored; at least 10 are needed"),
        (
            dict(arr_0=np.zeros((12, 9, 8, 1), np.uint8)),
            "--images: images of (9, 8, 1); the classifier takes (8, 8, 1)",
        ),
    ],
)
def test_images_that_cannot_be_scored(given, part, tmp_path, extractor):
    np.savez(tmp_path / "given.npz", **given)
    arguments = [f"--images={tmp_path / 'given.npz'}", "--reference=digits:test", f"--extractor={extractor}"]
    check_refused(fid.main, arguments, part)


def test_images_that_are_none(tmp_path, extractor):
    options = ["--reference=digits:test", f"--extractor={extractor}"]
    (tmp_path / "text.npz").write_text("no archive")
    check_refused(
        fid.main, [f"--images={tmp_path / 'text.npz'}", *options], "text.npz: not an .npz file that can be read"
    )
    check_refused(
        fid.main, ["--images=nothing", *options], "--images: 'nothing' is no .npz file, no folder, and not NAME:SPLIT"
    )
    (tmp_path / "empty").mkdir()
    check_refused(fid.main, [f"--images={tmp_path / 'empty'}", *options], "holds no .bmp")
    for i, side in enumerate((8, 9)):
        (tmp_path / "mixed").mkdir(exist_ok=True)
        Image.new("L", (side, 8)).save(tmp_path / "mixed" / f"{i}.png")
    check_refused(fid.main, [f"--images={tmp_path / 'mixed'}", *options], "data.size:", "8x8 and", "8x9")
    check_refused(fid.main, ["--images=digits:test", "--n=298", *options], "--n: 298 of the 297 images of digits-test")


def test_references_of_others(tmp_path, extractor, trained):
    file, arguments = tmp_path / "stats.npz", [f"--workdir={trained}", f"--extractor={extractor}"]
    np.savez(file, mu=np.zeros(64), sigma=np.eye(64))
    check_refused(
        fid.main, [*arguments, f"--reference={file}"], "is of Inception's features; a classifier's are not comparable"
    )
    other = {"kind": "classifier", "hash": "0" * 64}
    np.savez(file, mu=np.zeros(64), sigma=np.eye(64), made=json.dumps({"name": "x", "extractor": other}))
    check_refused(fid.main, [*arguments, f"--reference={file}"], "is another extractor's (hash: 0000", "make it again")
    np.savez(file, mu=np.zeros(64), sigma=np.eye(64), made="{")
    check_refused(fid.main, [*arguments, f"--reference={file}"], "is damaged", "make it again")
    own = extractors.load(extractor, jax.make_mesh((1,), ("data",))).described
    np.savez(file, mu=np.zeros(64), sigma=np.eye(63), made=json.dumps({"name": "x", "extractor": own}))
    check_refused(fid.main, [*arguments, f"--reference={file}"], f"--reference: {file}: sigma:", "(63, 63)")


def test_features_that_are_not_finite(tmp_path, extractor):
    broken = tmp_path / "broken"
    params = serialization.msgpack_restore((extractor / "params.msgpack").read_bytes())
    params["fc"]["bias"] = np.full(10, np.nan, np.float32)
    extractors.save(broken, CLASSIFIER, params, {}, SHAPE)
    arguments = ["--images=digits:test", "--reference=digits:test", f"--extractor={broken}"]
    check_refused(fid.main, arguments, "digits-test: image 0 has a feature (logits) that is not finite, 297 in all")


def test_extractors_that_are_damaged(tmp_path, extractor):
    arguments = ["--images=digits:test", "--reference=digits:test"]
    for name, content in (("params.msgpack", b"\x00"), ("extractor.json", b"{")):
        damaged = tmp_path / name
        shutil.copytree(extractor, damaged)
        (damaged / name).write_bytes(content)
        check_refused(
            fid.main, [*arguments, f"--extractor={damaged}"], f"--extractor: {damaged} is damaged", "remove it"
        )
    swapped = tmp_path / "swapped"
    shutil.copytree(extractor, swapped)
    params = serialization.msgpack_restore((swapped / "params.msgpack").read_bytes())
    params["fc"]["bias"] = np.ones(10, np.float32)
    (swapped / "params.msgpack").write_bytes(serialization.to_bytes(params))
    check_refused(fid.main, [*arguments, f"--extractor={swapped}"], "is damaged (its weights' hash is another)")


def test_inceptions_weights(tmp_path, monkeypatch, trained):
    monkeypatch.setenv("HOME", str(tmp_path))
    mend = "python -m ddaepp_jax.convert --kind=inception-fid"
    check_refused(fid.main, [f"--workdir={trained}"], "extractor: Inception's weights are not in", mend)
    kind = "--kind=inception-fid"
    check_refused(convert.main, [kind, "--config.seed=1"], "--config.seed=1: not an argument of --kind=inception-fid")
    check_refused(convert.main, [kind, "--prefix=x"], "--prefix: not an argument of --kind=inception-fid")
    check_refused(
        convert.main, [kind, f"--checkpoint={tmp_path / 'none.pth'}"], f"--checkpoint: no file {tmp_path / 'none.pth'}"
    )
    released, served = convert.inception_fid, tmp_path / "served.pth"
    served.write_bytes(b"something else")
    monkeypatch.setattr(released, "URL", served.as_uri())
    check_refused(convert.main, [kind], "gave another file (SHA-256", f"not {released.DIGEST}..); removed")
    monkeypatch.setattr(released, "URL", (tmp_path / "gone.pth").as_uri())
    check_refused(convert.main, [kind], "cannot be fetched (", "give a copy of it")
    assert not extractors.there(tmp_path / ".cache" / "ddaepp_jax" / "extractors" / "inception")


@pytest.mark.parametrize(
    ("field", "part"),
    [
        ("every=-1", "evals.fid.every: -1 is negative"),
        ("n=9", "evals.fid.n: 9 images are too few; give 10 or more"),
        ("extractor=vgg", "extractor: no 'vgg'; there is inception, classifier, or the directory of one"),
    ],
)
def test_scores_in_training(field, part, tmp_path):
    arguments = [TINY, f"--workdir={tmp_path / 'run'}", "--config.evals.fid.every=2", f"--config.evals.fid.{field}"]
    check_refused(main.main, arguments, part)
    assert not (tmp_path / "run").exists()
