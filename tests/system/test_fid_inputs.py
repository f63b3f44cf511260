"""Bad arguments, images, references and extractors: the errors of the program ``fid``."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import serialization
from helpers.errors import expect_error
from helpers.extractor import CLASSIFIER, SHAPE
from PIL import Image

from ddaepp_jax import convert, fid
from ddaepp_jax.released import inception_fid
from ddaepp_jax.scoring import extractors

DIGITS = ("--images=digits:test", "--reference=digits:test")


@pytest.fixture
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def scorer(extractor, tmp_path_factory) -> Path:
    """A copy of the extractor, because statistics of data are kept in it."""
    return Path(shutil.copytree(extractor, tmp_path_factory.mktemp("scorer") / "wrn"))


@pytest.fixture(scope="module")
def statistics(scorer) -> Path:
    """A file of statistics by the extractor, made without computing features."""
    own = extractors.load(scorer, jax.make_mesh((1,), ("data",))).identity
    made = json.dumps({"name": "x", "extractor": own})
    np.savez(scorer / "statistics.npz", mu=np.zeros(64), sigma=np.eye(64), made=made)
    return scorer / "statistics.npz"


# ---- arguments ----


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        (["--n=many"], "argument --n", ["'many'"]),
        (["--seed=3"], "unrecognized", ["--seed=3"]),
        (["--seeds=0,0"], "--seeds", ["(0, 0)", "different"]),
        (["--seeds=-1"], "--seeds", ["(-1,)", "2**32"]),
        (["--images=digits:test"], "--workdir, --images", ["one"]),
    ],
)
def test_bad_argument(arguments, field, words):
    with expect_error(field, *words):
        fid.main(["--workdir=x", *arguments])


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        (["--n=9"], "--n", ["9", "10"]),
        (["--extractor=vgg"], "extractor", ["'vgg'", "classifier"]),
        (["--resizing=tensorflow1"], "--resizing", ["'tensorflow1'", "classifier"]),
        (["--resizing=bicubic"], "resizing", ["'bicubic'", "pytorch"]),
        (["--reference=validation"], "data.split", ["'validation'", "test"]),
        (["--reference=nowhere.npz"], "nowhere.npz", [".npz file"]),
        (["--sampler=heun"], "sampler", ["'heun'", "dpmpp_2m"]),
        (["--steps=0"], "steps", ["0", "1000"]),
        (["--guidance=2"], "guidance", ["labels"]),
        (["--out=/dev/null/x"], "--out", ["/dev/null/x", "another"]),
        (["--size=8"], "data.size", ["(8,)", "height"]),
    ],
)
def test_scores_of_a_run(arguments, field, words, plain, scorer, statistics, tmp_path):
    given = [
        f"--workdir={plain}",
        f"--extractor={scorer}",
        f"--reference={statistics}",
        f"--out={tmp_path / 'scores'}",
    ]
    with expect_error(field, *words):
        fid.main([*given, "--n=16", *arguments])


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        ([], "--workdir, --images", ["one"]),
        ([*DIGITS, "--npz", "--steps=5"], "--steps, --npz", ["--images"]),
        (["--images=digits:test"], "--reference", ["missing"]),
        (
            ["--images=digits:test", "--reference=x.npz", "--extractor=classifier"],
            "--extractor",
            ["NAME:SPLIT"],
        ),
    ],
)
def test_scores_of_nothing(arguments, field, words):
    with expect_error(field, *words):
        fid.main(arguments)


def test_scores_of_what_is_no_run(tmp_path):
    with expect_error(f"{tmp_path}", "config.json"):
        fid.main([f"--workdir={tmp_path}"])


# ---- images ----


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "field", "words"),
    [
        ("arr_0", (12, 8, 8, 1), np.float32, "given.npz", ["float32", "(12, 8, 8, 1)", "uint8"]),
        ("arr_0", (12, 8, 8), np.uint8, "given.npz", ["(12, 8, 8)", "(N, H, W, C)"]),
        ("arr_0", (0, 8, 8, 1), np.uint8, "given.npz", ["(0, 8, 8, 1)"]),
        ("pictures", (12, 8, 8, 1), np.uint8, "given.npz", ["arr_0", "pictures"]),
        ("arr_0", (9, 8, 8, 1), np.uint8, "given", ["9", "10"]),
        ("arr_0", (12, 9, 8, 1), np.uint8, "--images", ["(9, 8, 1)", "(8, 8, 1)"]),
    ],
)
def test_images_that_cannot_be_scored(
    name, shape, dtype, field, words, in_tmp_path, scorer, statistics
):
    np.savez("given.npz", **{name: np.zeros(shape, dtype)})
    with expect_error(field, *words):
        fid.main(["--images=given.npz", f"--reference={statistics}", f"--extractor={scorer}"])


def test_things_that_are_no_images(tmp_path, scorer):
    options = ["--reference=digits:test", f"--extractor={scorer}"]
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    for i, side in enumerate((8, 9)):
        Image.new("L", (side, 8)).save(tmp_path / "mixed" / f"{i}.png")
    for images, field, *words in (
        (tmp_path / "text.npz", f"{tmp_path / 'text.npz'}", ".npz file"),
        ("nothing", "--images", "'nothing'", "NAME:SPLIT"),
        (tmp_path / "empty", "--images", f"{tmp_path / 'empty'}", ".bmp"),
        (tmp_path / "mixed", "data.size", "8x8", "8x9"),
    ):
        with expect_error(field, *words):
            fid.main([f"--images={images}", *options])
    with expect_error("--n", "298", "297"):
        fid.main(["--images=digits:test", "--n=298", *options])


# ---- references ----

ANOTHERS = json.dumps({"name": "x", "extractor": {"kind": "classifier", "hash": "0" * 64}})


@pytest.mark.parametrize(
    ("made", "width", "words"),
    [
        ({}, 64, ["Inception", "classifier"]),
        ({"made": ANOTHERS}, 64, ["hash: 0000"]),
        ({"made": "{"}, 64, ["damaged"]),
        (None, 63, ["sigma", "(63, 63)"]),
    ],
)
def test_references_of_others(made, width, words, tmp_path, scorer, statistics, plain):
    """``made`` is the file's provenance; None stands for the extractor's own."""
    file = tmp_path / "stats.npz"
    made = {"made": np.load(statistics)["made"]} if made is None else made
    np.savez(file, mu=np.zeros(64), sigma=np.eye(width), **made)
    with expect_error("--reference", f"{file}", *words):
        fid.main([f"--workdir={plain}", f"--extractor={scorer}", f"--reference={file}"])


# ---- extractors ----


def test_features_that_are_not_finite(tmp_path, scorer):
    broken = tmp_path / "broken"
    params = serialization.msgpack_restore((scorer / "params.msgpack").read_bytes())
    params["fc"]["bias"] = np.full(10, np.nan, np.float32)
    extractors.save(broken, CLASSIFIER, params, {}, SHAPE)
    with expect_error("digits-test", "image 0", "logits", "finite", "297"):
        fid.main([*DIGITS, f"--extractor={broken}"])


def test_extractors_that_are_damaged(tmp_path, scorer):
    params = serialization.msgpack_restore((scorer / "params.msgpack").read_bytes())
    params["fc"]["bias"] = np.ones(10, np.float32)
    for case, name, content, *words in (
        ("short", "params.msgpack", b"\x00", "damaged", "remove"),
        ("text", "extractor.json", b"{", "damaged", "remove"),
        ("swapped", "params.msgpack", serialization.to_bytes(params), "damaged", "hash"),
    ):
        damaged = Path(shutil.copytree(scorer, tmp_path / case))
        (damaged / name).write_bytes(content)
        with expect_error("--extractor", f"{damaged}", *words):
            fid.main([*DIGITS, f"--extractor={damaged}"])


def test_inceptions_weights(tmp_path, monkeypatch, plain):
    """``convert`` fetches them into the home directory, and leaves nothing if they are wrong."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with expect_error(
        "extractor", "Inception", "python -m ddaepp_jax.convert --kind=inception-fid"
    ):
        fid.main([f"--workdir={plain}"])
    served = tmp_path / "served.pth"
    served.write_bytes(b"something else")
    for url, argument, field, *words in (
        ("", "--config.seed=1", "--config.seed=1", "--kind=inception-fid"),
        ("", "--prefix=x", "--prefix", "--kind=inception-fid"),
        ("", f"--checkpoint={tmp_path / 'none.pth'}", "--checkpoint", f"{tmp_path / 'none.pth'}"),
        (served.as_uri(), None, "--checkpoint", "SHA-256", inception_fid.DIGEST, "removed"),
        ((tmp_path / "gone.pth").as_uri(), None, "--checkpoint", "fetched", "copy"),
    ):
        monkeypatch.setattr(inception_fid, "URL", url)
        with expect_error(field, *words):
            convert.main(["--kind=inception-fid", *([argument] if argument else [])])
    assert not extractors.exists(tmp_path / ".cache" / "ddaepp_jax" / "extractors" / "inception")
