"""The program ``fid`` scores a run's samples and other images, and resumes.

tests/parallel runs it on eight devices.
"""

import hashlib
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.errors import expect_error
from helpers.extractor import CLASSIFIER, untrained_classifier
from helpers.references import state_dict
from helpers.run import NO_EVALS, PLAIN, config
from helpers.scores import differ
from PIL import Image
from safetensors.numpy import save_file

from ddaepp_jax import convert, fid, load
from ddaepp_jax.base import dispatch, parallel
from ddaepp_jax.data import datasets
from ddaepp_jax.released import inception_fid
from ddaepp_jax.run import Run
from ddaepp_jax.run.train import train_and_evaluate
from ddaepp_jax.sampling.settings import Sampling
from ddaepp_jax.scoring import by_name, classifier, extractors, image_sets, references
from ddaepp_jax.scoring.extractors import Extractor
from ddaepp_jax.scoring.inception import Inception
from ddaepp_jax.scoring.metrics import scores
from ddaepp_jax.scoring.score import score_samples


def one_device():
    return parallel.make_mesh((1, 1, 1))


@pytest.fixture(scope="module")
def extractor(extractor, tmp_path_factory):
    """A copy of the classifier; statistics of references are kept beside its weights."""
    return Path(shutil.copytree(extractor, tmp_path_factory.mktemp("extractor") / "wrn"))


@pytest.fixture(scope="module")
def workdir(conditional, tmp_path_factory):
    """A copy of the conditional run; scores are written into it."""
    return Path(shutil.copytree(conditional, tmp_path_factory.mktemp("fid") / "run"))


def scored(workdir, extractor, *arguments):
    """Returns the JSON that ``fid`` writes for a run."""
    shutil.rmtree(workdir / "fid", ignore_errors=True)
    fid.main([f"--workdir={workdir}", f"--extractor={extractor}", *arguments])
    (file,) = (workdir / "fid").glob("*.json")
    return json.loads(file.read_text())


def test_scores_have_their_protocol_in_their_names_and_seeds_their_spread(
    workdir, extractor, capsys
):
    results = scored(workdir, extractor, "--n=24", "--seeds=0,1", "--batch_size=16")
    assert list(results["metrics"]) == [
        "classifier-fd24/ema0.9/ddpm4/train",
        "classifier-score24/ema0.9/ddpm4",
        "classifier-kid24/ema0.9/ddpm4/train",
        "classifier-precision24/ema0.9/ddpm4/train",
        "classifier-recall24/ema0.9/ddpm4/train",
    ]
    fds = [row["fd"] for row in results["rows"]]
    assert [row["seed"] for row in results["rows"]] == [0, 1] and fds[0] != fds[1]
    mean = results["mean"]["fd"]
    assert mean == results["metrics"]["classifier-fd24/ema0.9/ddpm4/train"] == np.mean(fds)
    assert np.isclose(results["std"]["fd"], np.std(fds, ddof=1))
    assert results["sampling"] == load(workdir).sampling().identity
    wrn = extractors.load(extractor, one_device())
    assert results["extractor"] == {"kind": "classifier", "hash": wrn.hash, "made": wrn.provenance}
    reference = results["reference"]
    assert reference["images"] | {"fingerprint": ""} == dict(
        data="digits", split="train", images=1500, image_shape=[8, 8, 1], fingerprint=""
    )
    assert "over 2 seeds" in capsys.readouterr().out
    # By hand: the run's samples, their features one image at a time, and the scores of these.
    samples = load(workdir).sample(n=24, seed=1)
    one = jax.jit(lambda x: CLASSIFIER.apply({"params": wrn.params}, x))
    pieces = [one(image[None] / np.float32(127.5) - 1) for image in samples]
    features = {layer: np.concatenate([piece[layer] for piece in pieces]) for layer in pieces[0]}
    train = image_sets.of_dataset(datasets.digits("train"), "train")
    by_hand = scores(features, references.compute_or_read(train, wrn, 64))
    assert differ({"seed": 1, **by_hand}, results["rows"][1]) < 1e-4


def test_more_seeds_join_those_that_are_there(workdir, extractor, monkeypatch):
    first = scored(workdir, extractor, "--n=16", "--seeds=3")
    monkeypatch.setattr(Run, "sample", lambda *_, **__: pytest.fail("sampled again"))
    arguments = [f"--workdir={workdir}", f"--extractor={extractor}", "--n=16"]
    fid.main([*arguments, "--seeds=3"])
    monkeypatch.undo()
    fid.main([*arguments, "--seeds=4,3"])
    (file,) = (workdir / "fid").glob("*.json")
    both = json.loads(file.read_text())
    assert both["rows"][0] == first["rows"][0] and [row["seed"] for row in both["rows"]] == [3, 4]
    fid.main([*arguments, "--seeds=3", "--npz"])  # The same scores, and now the images too.
    again = json.loads(file.read_text())["rows"]
    assert max(map(differ, again, both["rows"])) < 1e-9  # Threads add in any order.
    with np.load(*(workdir / "fid").glob("*-seed3.npz")) as arrays:
        assert (arrays["arr_0"] == load(workdir).sample(n=16, seed=3)).all()
        assert (arrays["arr_1"] == np.arange(16) % 10).all()


def test_a_stopped_program_goes_on_in_the_middle_of_a_seed(workdir, extractor, monkeypatch):
    whole = scored(workdir, extractor, "--n=40", "--batch_size=8", "--npz")
    (npz,) = (workdir / "fid").glob("*.npz")
    images = np.load(npz)["arr_0"]
    monkeypatch.setattr(dispatch, "SAVE_SECONDS", 0.0)
    sample = Run.sample
    counts = []
    limit = 24

    def dying(self, n, first, **sampling):
        if sum(counts) >= limit:
            raise KeyboardInterrupt
        counts.append(n)
        return sample(self, n=n, first=first, **sampling)

    monkeypatch.setattr(Run, "sample", dying)
    arguments = ["--n=40", "--batch_size=8", "--npz"]
    with pytest.raises(KeyboardInterrupt):
        scored(workdir, extractor, *arguments)
    before = sum(counts)
    limit = 40
    counts.clear()
    fid.main([f"--workdir={workdir}", f"--extractor={extractor}", *arguments])
    assert before == 24 and 16 <= sum(counts) < 40
    (file,) = (workdir / "fid").glob("*.json")
    assert differ(json.loads(file.read_text())["rows"][0], whole["rows"][0]) < 1e-9
    assert (np.load(npz)["arr_0"] == images).all()
    assert not list((workdir / "fid").glob("*-partial"))


def test_scores_are_those_of_any_batch(workdir, extractor, tmp_path):
    """37 samples and 297 images are no multiple of the batch; each counts once."""
    wrn = extractors.load(extractor, one_device())
    results = {}
    test, train = (
        image_sets.of_dataset(datasets.digits(split), split) for split in ("test", "train")
    )
    for batch_size in (37, 7):
        features = image_sets.collect(test, wrn, tmp_path / str(batch_size), batch_size)
        assert len(features["pool"]) == 297
        reference = references.compute_or_read(train, wrn, 64)
        samples = load(workdir).samples(batch_size=batch_size)
        out = tmp_path / f"{batch_size}-scores"
        (sampled,) = score_samples(samples, wrn, reference, out, n=37, seeds=(0,))["rows"]
        results[batch_size] = (np.array(features["pool"]), scores(features, reference), sampled)
    (pool_a, test_a, sampled_a), (pool_b, test_b, sampled_b) = results.values()
    assert np.abs(pool_a - pool_b).max() < 1e-5 * np.abs(pool_a).max()
    assert differ(test_a, test_b) < 1e-6 and differ(sampled_a, sampled_b) < 1e-4


def test_images_are_the_same_from_a_file_a_folder_and_a_split(extractor, tmp_path, capsys):
    images, labels = datasets.digits("test").arrays()
    np.savez(tmp_path / "digits.npz", arr_0=images)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = tmp_path / "digits" / str(label) / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    shown = []
    for source in (tmp_path / "digits.npz", tmp_path / "digits", "digits:test"):
        fid.main([f"--images={source}", "--reference=digits:train", f"--extractor={extractor}"])
        lines = capsys.readouterr().out.splitlines()
        shown.append([line.split()[1] for line in lines])
        name = lines[0].split()[0]
        assert name.startswith("classifier-fd297/digits") and name.endswith("/digits-train")
    assert shown[0][0] == shown[1][0] == shown[2][0]  # The order doesn't change the distance.
    assert shown[0] == shown[2]


def test_a_set_has_no_distance_to_itself_and_a_subset_is_drawn(extractor, tmp_path, capsys):
    fid.main(["--images=digits:train", "--reference=digits:train", f"--extractor={extractor}"])
    lines = {
        line.split()[0]: float(line.split()[1]) for line in capsys.readouterr().out.splitlines()
    }
    assert abs(lines["classifier-fd1500/digits-train/digits-train"]) < 1e-6
    assert lines["classifier-precision1500/digits-train/digits-train"] == 1
    assert lines["classifier-recall1500/digits-train/digits-train"] == 1
    out = tmp_path / "new" / "scores"
    arguments = [
        "--images=digits:train",
        "--n=100",
        "--reference=digits:train",
        f"--extractor={extractor}",
    ]
    fid.main([*arguments, f"--out={out}"])
    assert json.loads(out.with_suffix(".json").read_text())["images"]["drawn_of"] == 1500
    assert capsys.readouterr().out.startswith("classifier-fd100/digits-train/digits-train")
    whole = image_sets.of_dataset(datasets.digits("train"), "train")
    drawn = image_sets.subset(whole, 100).read(np.arange(100))
    assert np.unique(drawn.reshape(100, -1), axis=0).shape[0] == 100  # Each once.


def test_statistics_are_made_once_and_read_from_their_file(tmp_path, monkeypatch):
    directory = untrained_classifier(tmp_path / "wrn", seed=5)
    wrn = extractors.load(directory, one_device())
    images = image_sets.of_dataset(datasets.digits("test"), "test")
    first = references.compute_or_read(images, wrn, 64)
    monkeypatch.setattr(image_sets, "collect", lambda *_: pytest.fail("computed features"))
    again = references.compute_or_read(images, wrn, 64)
    assert again.provenance == first.provenance and again.name == first.name == "test"
    assert (again.features == first.features).all()
    gaussian = first.gaussians["pool"]
    assert np.allclose(again.gaussians["pool"].covariance, gaussian.covariance, rtol=0, atol=1e-12)
    with np.load(references.file_of(images, wrn)) as arrays:  # pytorch-fid reads the same names.
        assert np.allclose(arrays["mu"], gaussian.mean)
        assert np.allclose(arrays["sigma"], gaussian.covariance)


def test_a_samplings_tag_tells_what_changes_scores():
    """The program and the evaluator, which overrides nothing, name scores by the same tag."""
    group = config(sampling__guidance=1.5, sampling__guidance_interval=(0.1, 1.0)).sampling
    assert Sampling.from_config(group).tag == "ddpm4-cfg1.5-in0.1_1"
    overrides = dict(sampler="ddim", steps=100, guidance=1.0, guide="small", autoguidance=2.0)
    sampling = Sampling.from_config(group, {"clip": False}, **overrides)
    assert sampling.tag == "ddim100-auto2_small-clipFalse"


def foreign(tmp_path, **arrays):
    file = tmp_path / "stats.npz"
    np.savez(file, **arrays)
    return file


def inception(resizing="pytorch"):
    """Returns an extractor without weights."""
    return Extractor("inception", Inception(resizing), None, None, "0" * 64, {}, None, None)


def test_statistics_of_others_are_read(tmp_path):
    rng = np.random.RandomState(0)
    mean = rng.normal(size=2048)
    covariance = np.diag(rng.uniform(0.5, 2, 2048))
    edm = references.read(foreign(tmp_path, mu=mean, sigma=covariance), inception(), 64)
    assert edm.name == "stats" and edm.features is None and list(edm.gaussians) == ["pool"]
    assert np.allclose(edm.gaussians["pool"].covariance, covariance)
    spatial = dict(mu_s=rng.normal(size=2023), sigma_s=np.eye(2023))
    adm = references.read(
        foreign(tmp_path, mu=mean, sigma=covariance, **spatial), inception("tensorflow1"), 64
    )
    assert list(adm.gaussians) == ["pool", "spatial"]


def test_scores_in_training_and_the_best_checkpoint_by_them(extractor, tmp_path):
    workdir = tmp_path / "run"
    scoring = dict(evals__fid__every=3, evals__fid__n=20, evals__fid__extractor=str(extractor))
    train_and_evaluate(config(**PLAIN | NO_EVALS | scoring, train__keep_checkpoints=1), workdir)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    name = "fid/ema0.999/classifier-fd20/ddpm4/train"
    distances = {row["step"]: row[name] for row in rows if name in row}
    assert sorted(distances) == [3, 6]
    best = load(workdir, step="fid")
    assert best.step == min(distances, key=distances.get)
    again = scored(workdir, extractor, f"--step={best.step}", "--n=20")
    assert np.isclose(again["rows"][0]["fd"], distances[best.step], rtol=1e-4)


def test_a_classifier_is_trained_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = classifier.Recipe(depth=10, width=1, images=2560, batch_size=128)
    monkeypatch.setattr(classifier, "Recipe", lambda: recipe)
    arguments = ["--images=digits:test", "--reference=digits:train", "--extractor=classifier"]
    fid.main(arguments)
    monkeypatch.setattr(classifier, "train", lambda *_, **__: pytest.fail("trained again"))
    first = capsys.readouterr().out
    fid.main(arguments)
    assert capsys.readouterr().out.splitlines()[-5:] == first.splitlines()[-5:]
    data = by_name.ClassifierData.of_config(config())
    directory = by_name.extractor_directory("classifier", data)
    assert directory.name == "classifier_digits_train_8x8x1"
    facts = json.loads((directory / "extractor.json").read_text())
    assert facts["made"]["accuracy"] > 30 and facts["made"]["data"] == "digits"
    assert facts["arguments"] == dict(num_classes=10, depth=10, width=1, stride=1)


def printed(capsys):
    """Returns the scores that ``fid`` printed, by name, as text."""
    return dict(line.split()[:2] for line in capsys.readouterr().out.splitlines())


@pytest.mark.slow  # Compiles Inception.
def test_inception_from_where_it_is_released_to_scores(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    released = tmp_path / "inception.safetensors"
    extractor = tmp_path / ".cache" / "ddaepp_jax" / "extractors" / "inception"
    save_file(state_dict(inception_fid), released)
    digest = hashlib.sha256(released.read_bytes()).hexdigest()
    monkeypatch.setattr(inception_fid, "URL", released.as_uri())
    monkeypatch.setattr(inception_fid, "DIGEST", digest[:8])
    convert.main(["--kind=inception-fid"])
    images = np.random.RandomState(0).randint(0, 256, (24, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "ours.npz", arr_0=images[:12])
    np.savez(tmp_path / "theirs.npz", arr_0=images[12:])
    arguments = [f"--images={tmp_path / 'ours.npz'}", "--batch_size=16"]
    capsys.readouterr()
    fid.main([*arguments, f"--reference={tmp_path / 'theirs.npz'}"])
    names = "fid12/ours/theirs sfid12/ours/theirs is12/ours kid12/ours/theirs"
    values = printed(capsys)
    assert list(values) == [*names.split(), "precision12/ours/theirs", "recall12/ours/theirs"]
    (file,) = (extractor / "references").glob("*.npz")
    fid.main([*arguments, f"--reference={file}"])  # The stored statistics, as a file.
    assert printed(capsys) == values
    with np.load(file) as arrays:  # Like ADM's file: moments and images without provenance.
        adm = {name: arrays[name] for name in ("mu", "sigma", "mu_s", "sigma_s")}
    np.savez(tmp_path / "adm.npz", arr_0=images[12:], **adm)
    with expect_error("--reference", "adm.npz", "--resizing=tensorflow1"):
        fid.main([*arguments, f"--reference={tmp_path / 'adm.npz'}"])
    fid.main([*arguments, f"--reference={tmp_path / 'adm.npz'}", "--resizing=tensorflow1"])
    other = printed(capsys)
    assert next(iter(other)) == "fid12-tensorflow1/ours/adm" and len(other) == 6
    np.savez(tmp_path / "edm.npz", mu=adm["mu"], sigma=adm["sigma"])
    fid.main([*arguments, f"--reference={tmp_path / 'edm.npz'}"])
    moments = printed(capsys)
    assert moments["fid12/ours/edm"] == values["fid12/ours/theirs"]  # The same moments.
    assert list(moments) == ["fid12/ours/edm", "is12/ours"]
