"""Bad arguments, images, references and extractors: the errors of the program ``fid``."""

import contextlib
import dataclasses
import json
import shutil
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import serialization
from helpers.errors import expect_error
from helpers.extractor import CLASSIFIER, SHAPE
from PIL import Image

from ddaepp_jax import convert, fid
from ddaepp_jax.base import parallel
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.released import inception_fid
from ddaepp_jax.scoring import extractors, image_sets, references
from ddaepp_jax.scoring.extractors import Extractor
from ddaepp_jax.scoring.image_sets import ImageSet
from ddaepp_jax.scoring.samples import check_space

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


@pytest.fixture(scope="module")
def opened(scorer) -> Extractor:
    """The extractor, opened."""
    return extractors.load(scorer, parallel.make_mesh((1, 1, 1)))


# ---- arguments ----


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        (["--n=many"], "argument --n", ["'many'"]),
        (["--seed=3"], "unrecognized", ["--seed=3"]),
        (["--seeds=0,0"], "--seeds", ["(0, 0)", "different"]),
        (["--seeds=-1"], "--seeds", ["(-1,)", "2**32"]),
        (["--images=digits:test"], "--workdir, --images", ["one"]),
        (["--n=0"], "--n", ["0", "10"]),
        (["--n=-5"], "--n", ["-5", "10"]),
        (["--batch_size=0"], "--batch_size", ["0", "1 or more"]),
        (["--batch_size=-8"], "--batch_size", ["-8", "1 or more"]),
        (["--classifier_images=5"], "--classifier_images", ["--extractor=classifier"]),
        (
            ["--classifier_images=0", "--extractor=classifier"],
            "--classifier_images",
            ["0", "1..1000000000"],
        ),
        (["--out=/dev/null/x"], "--out", ["/dev/null", "another"]),
        (["--out=/tmp"], "--out", ["/tmp", "folder"]),
        (["--out="], "argument --out", ["no file"]),
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
        (["--reference=validation"], "--reference", ["'validation'", "test"]),
        (["--reference=no/where"], "--reference", ["'no/where'", "not exist"]),
        (["--reference=nowhere.npz"], "nowhere.npz", [".npz file"]),
        (["--sampler=heun"], "sampler", ["'heun'", "dpmpp_2m"]),
        (["--steps=0"], "steps", ["0", "1000"]),
        (["--guidance=2"], "guidance", ["labels"]),
        (["--size=8"], "--size", ["(8,)", "HEIGHT"]),
        (["--size=-8,8"], "--size", ["(-8, 8)", "HEIGHT"]),
        (["--n=100000000000000"], "--n", ["GiB of memory", "fewer"]),
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


def test_more_samples_than_the_disk_holds(opened, tmp_path, monkeypatch):
    """A sample has 74 features of 4 bytes, and 64 pixels, which lie there twice while written."""
    samples = types.SimpleNamespace(image_shape=SHAPE)
    needed = 1000 * (4 * 74 + 3 * 64)
    for free, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(
            shutil, "disk_usage", lambda _, free=free: types.SimpleNamespace(free=free)
        )
        with contextlib.nullcontext() if fits else expect_error("--n", "1000", "GiB", "fewer"):
            check_space(samples, opened, tmp_path / "new" / "x", n=1000, seeds=2, npz=True)


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
        ("arr_0", (12, 0, 8, 1), np.uint8, "given.npz", ["(12, 0, 8, 1)"]),
        ("arr_0", (12, 8, 8, 1), object, "given.npz", ["read", "another"]),
        ("pictures", (12, 8, 8, 1), np.uint8, "given.npz", ["arr_0", "pictures"]),
        ("arr_0", (9, 8, 8, 1), np.uint8, "--images", ["given", "9", "10"]),
        ("arr_0", (12, 9, 8, 1), np.uint8, "--images", ["(9, 8, 1)", "(8, 8, 1)"]),
    ],
)
def test_images_that_cannot_be_scored(
    name, shape, dtype, field, words, in_tmp_path, scorer, statistics
):
    np.savez("given.npz", **{name: np.zeros(shape, dtype)})
    with expect_error(field, *words):
        fid.main(["--images=given.npz", f"--reference={statistics}", f"--extractor={scorer}"])


def grey_png(file: Path, width: int = 8) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (width, 8)).save(file)


def test_things_that_are_no_images(tmp_path, scorer):
    options = ["--reference=digits:test", f"--extractor={scorer}"]
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "README.md").write_text("# Samples")
    (tmp_path / "empty").mkdir()
    grey_png(tmp_path / "mixed" / "0.png")
    grey_png(tmp_path / "mixed" / "1.png", width=9)
    grey_png(tmp_path / "one" / "0.png")
    for split in ("Train", "test"):
        grey_png(tmp_path / "split" / split / "0.png")
    for images, field, *words in (
        (tmp_path / "text.npz", f"{tmp_path / 'text.npz'}", ".npz file"),
        ("nothing", "--images", "'nothing'", "not exist", "NAME:SPLIT"),
        ("gs://bucket/samples", "argument --images", "gs://bucket/samples", "local path"),
        (tmp_path / "README.md", "--images", "README.md", "neither an .npz file nor a folder"),
        (tmp_path / "one" / "0.png", "--images", "0.png", "a folder of images"),
        (tmp_path / "empty", "--images", f"{tmp_path / 'empty'}", ".bmp"),
        (tmp_path / "mixed", "--size", "8x8", "8x9"),
        (tmp_path / "one", "--images", "one has 1 images", "10"),
        (tmp_path / "split", "--images", "test, train", "folder of one"),
        ("digits:valid", "--images", "digits", "'valid'"),
    ):
        with expect_error(field, *words):
            fid.main([f"--images={images}", *options])
    for n in ("298", "0", "9"):
        with expect_error("--n", n, "10"):
            fid.main(["--images=digits:test", f"--n={n}", *options])


def test_scores_of_images_replace_no_other_file(scorer, tmp_path):
    """Neither a run's config nor scores of other images."""
    file = tmp_path / "config.json"
    arguments = [*DIGITS, f"--extractor={scorer}", f"--out={tmp_path / 'config'}"]
    file.write_text('{"model": {}}')
    with expect_error(f"{file}", "not scores", "another --out"):
        fid.main(arguments)
    assert file.read_text() == '{"model": {}}'
    file.unlink()
    fid.main([*arguments, "--n=20"])
    scores = file.read_text()
    with pytest.raises(InputError, match=r"config.json: holds scores .* n: 20 -> 30\); .*another"):
        fid.main([*arguments, "--n=30"])
    assert file.read_text() == scores


def test_images_of_another_size_or_colour_than_the_reference(capsys):
    def images(*shape):
        return ImageSet("set", {}, shape, 12, lambda ids: np.zeros((len(ids), *shape), np.uint8))

    references.check_comparable((16, 16, 3), images(16, 16, 3), "--images")
    for shape in ((16, 16, 3), (32, 16, 3)):
        with expect_error("--images", "x".join(map(str, shape[:2])), "32x32", "--size"):
            references.check_comparable(shape, images(32, 32, 3), "--images")
    assert not capsys.readouterr().err
    references.check_comparable((16, 16, 1), images(16, 16, 3), "--images")
    assert "1 channels, and the reference of 3" in capsys.readouterr().err


# ---- references ----

ANOTHERS = json.dumps({"name": "x", "extractor": {"kind": "classifier", "hash": "0" * 64}})


@pytest.mark.parametrize(
    ("made", "width", "words"),
    [
        ({}, 64, ["Inception", "classifier"]),
        ({"made": ANOTHERS}, 64, ["hash: 0000"]),
        ({"made": "{"}, 64, ["damaged"]),
        (None, 63, ["sigma", "(63, 63)"]),
        ({"made": "[]"}, 64, ["damaged"]),
    ],
)
def test_references_of_others(made, width, words, tmp_path, scorer, statistics, plain):
    """``made`` is the file's provenance; None stands for the extractor's own."""
    file = tmp_path / "stats.npz"
    made = {"made": np.load(statistics)["made"]} if made is None else made
    np.savez(file, mu=np.zeros(64), sigma=np.eye(width), **made)
    with expect_error("--reference", f"{file}", *words):
        fid.main([f"--workdir={plain}", f"--extractor={scorer}", f"--reference={file}"])


NAN = np.nan


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (dict(mu=np.full(64, NAN)), ["mu and sigma", "not finite"]),
        (dict(mu=np.full(64, np.inf)), ["mu and sigma", "not finite"]),
        (dict(mu=np.float64(0)), ["mu and sigma", "()", "64"]),
        (dict(mu=np.zeros(63)), ["mu and sigma", "(63,)", "64"]),
        (dict(mu=np.full(64, "a")), ["mu and sigma", "float"]),
        (dict(sigma=np.eye(64)[0]), ["mu and sigma", "(64,)"]),
        (dict(sigma=np.diag([-1.0] + [1.0] * 63)), ["mu and sigma", "eigenvalue of -1"]),
        (dict(sigma=-np.eye(64)), ["mu and sigma", "eigenvalue of -1"]),
        (dict(sigma=np.eye(64) + np.triu(np.ones((64, 64)), 1)), ["mu and sigma", "symmetric"]),
        (dict(sigma=np.where(np.eye(64) > 0, NAN, 0)), ["mu and sigma", "not finite"]),
        (dict(features=np.full((12, 64), NAN)), ["features", "finite"]),
        (dict(features=np.zeros((12, 63))), ["features", "(12, 63)", "64"]),
        (dict(features=np.zeros((3, 64))), ["features", "(3, 64)", "10"]),
        (dict(features=np.zeros(64)), ["features", "(64,)"]),
        (dict(mu_s=np.zeros(64)), ["sigma_s"]),
        (dict(mu_s=np.zeros(64), sigma_s=np.eye(64)), ["mu_s", "spatial"]),
    ],
)
def test_references_that_hold_no_statistics(arrays, words, tmp_path, opened, statistics):
    file = tmp_path / "stats.npz"
    np.savez(file, **{**np.load(statistics), **arrays})
    with expect_error("", f"{file}", *words):
        references.read(file, opened, 64)


# ---- extractors ----


def changed(scorer: Path, directory: Path, value: float) -> Path:
    """Writes a copy of the extractor whose last bias is ``value``."""
    params = serialization.msgpack_restore((scorer / "params.msgpack").read_bytes())
    params["fc"]["bias"] = np.full(10, value, np.float32)
    extractors.save(directory, CLASSIFIER, params, {}, SHAPE)
    return directory


@pytest.mark.parametrize("value", [NAN, np.inf, -np.inf])
def test_weights_that_are_not_finite(value, tmp_path, scorer):
    broken = changed(scorer, tmp_path / "broken", value)
    with expect_error("--extractor", f"{broken}", "10 of the 10", "fc.bias", "remove"):
        fid.main([*DIGITS, f"--extractor={broken}"])


def with_weights(extractor: Extractor, layer: str, factor: float) -> Extractor:
    """Returns the extractor with the weights of a layer multiplied."""
    scaled = jax.tree.map(lambda leaf: leaf * np.float32(factor), extractor.params[layer])
    return dataclasses.replace(extractor, params=extractor.params | {layer: scaled})


def random_images(n: int = 12, seed: int = 0) -> ImageSet:
    pixels = np.random.RandomState(seed).randint(0, 256, (n, *SHAPE), np.uint8)
    return ImageSet("set", {"data": "random"}, SHAPE, n, lambda ids: pixels[ids])


def test_features_that_are_not_finite(tmp_path, opened):
    overflowing = with_weights(opened, "fc", 3e38)
    with expect_error("set", "logits", "not finite", "another extractor"):
        image_sets.collect(random_images(), overflowing, tmp_path, 64)


def test_a_reference_whose_images_cannot_be_told_apart(tmp_path, opened):
    constant = dataclasses.replace(with_weights(opened, "norm", 0), directory=tmp_path)
    with expect_error("--reference", "set", "12", "the same features", "another"):
        references.compute_or_read(random_images(), constant, 64)


def test_a_batch_of_no_images(tmp_path, opened):
    for batch_size in (0, -64):
        with expect_error("--batch_size", f"{batch_size}", "1 or more"):
            image_sets.collect(random_images(), opened, tmp_path, batch_size)
    assert not list(tmp_path.iterdir())


def test_extractors_that_are_damaged(tmp_path, scorer):
    params = serialization.msgpack_restore((scorer / "params.msgpack").read_bytes())
    params["fc"]["bias"] = np.ones(10, np.float32)
    facts = (scorer / "extractor.json").read_bytes()
    for case, name, content, *words in (
        ("short", "params.msgpack", b"\x00", "damaged", "remove"),
        ("text", "extractor.json", b"{", "damaged", "remove"),
        ("swapped", "params.msgpack", serialization.to_bytes(params), "damaged", "hash"),
        ("wider", "extractor.json", facts.replace(b'"width": 1', b'"width": 2'), "shapes"),
        ("depth", "extractor.json", facts.replace(b'"depth": 10', b'"depth": 11'), "6 n + 4"),
        ("list", "extractor.json", b"[]", "damaged"),
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
