"""The program ``fid`` scores a run's samples and other images, and resumes.

tests/parallel runs it on eight devices.
"""

import copy
import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.errors import expect_error
from helpers.extractor import CLASSIFIER, SHAPE, untrained_classifier
from helpers.references import state_dict
from helpers.run import NO_EVALS, PLAIN, config
from helpers.scores import differ
from PIL import Image
from safetensors.numpy import save_file

from ddaepp_jax import convert, fid, load
from ddaepp_jax.base import dispatch, parallel
from ddaepp_jax.base.unfinished import workspace
from ddaepp_jax.data import datasets
from ddaepp_jax.released import inception_fid
from ddaepp_jax.run import Run
from ddaepp_jax.run.train import train_and_evaluate
from ddaepp_jax.sampling.settings import Sampling
from ddaepp_jax.scoring import by_name, classifier, extractors, frechet, image_sets, references
from ddaepp_jax.scoring.extractors import Extractor
from ddaepp_jax.scoring.inception import Inception
from ddaepp_jax.scoring.metrics import scores
from ddaepp_jax.scoring.samples import Samples, score_samples, unfinished


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
    captured = capsys.readouterr()
    lines = {line.split()[0]: float(line.split()[1]) for line in captured.out.splitlines()}
    assert "the same images" in captured.err
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


def pixels(n=130, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (n, *SHAPE), np.uint8)


def as_set(images):
    return image_sets.ImageSet(
        "set", {"data": "random"}, SHAPE, len(images), lambda ids: images[ids]
    )


def test_every_pixel_of_a_set_counts():
    """130 images at evenly spaced numbers are more than a sample of 64 would see."""
    images = pixels()
    slugs = {as_set(images).slug}
    for i in range(0, 130, 13):
        other = images.copy()
        other[i, 7, 7] ^= 1
        slugs.add(as_set(other).slug)
    slugs.add(as_set(images[:-1]).slug)
    slugs.add(as_set(images[::-1]).slug)
    halves = dataclasses.replace(as_set(images), image_shape=(4, 16, 1))
    assert len(slugs | {halves.slug}) == 14
    assert as_set(images.copy()).slug == as_set(images).slug  # in other memory
    assert len(image_sets.subset(as_set(images), 100).slug) < 100
    long = dataclasses.replace(as_set(images), source={"data": "x" * 500})
    assert len(long.slug) < 100
    subsets = {image_sets.subset(as_set(images), n).slug for n in (100, 101)}
    assert len(subsets) == 2


def test_statistics_of_changed_images_are_made_anew(tmp_path):
    """All images but 64 evenly chosen ones become black, in the place where the set lay."""
    wrn = extractors.load(untrained_classifier(tmp_path / "wrn"), one_device())
    images = pixels()
    black = images.copy()
    black[np.setdiff1d(np.arange(130), np.linspace(0, 129, 64).astype(int))] = 0
    before, after = (references.compute_or_read(as_set(x), wrn, 64) for x in (images, black))
    assert (before.features[0] == after.features[0]).all()
    assert frechet.distance(before.gaussians["pool"], after.gaussians["pool"]) > 0.01


def test_unusable_statistics_are_made_anew(tmp_path, capsys):
    wrn = extractors.load(untrained_classifier(tmp_path / "wrn"), one_device())
    images = as_set(pixels(12))
    reference = references.compute_or_read(images, wrn, 64)
    file = references.file_of(images, wrn)
    whole = file.read_bytes()
    arrays = dict(np.load(file))
    made = json.loads(str(arrays["made"]))
    made["images"]["fingerprint"] = "0" * 64

    def change(**changes):
        np.savez(file, **arrays | changes)

    for damage in (
        lambda: file.write_bytes(whole[: len(whole) // 2]),
        lambda: file.write_bytes(whole.replace(whole[4000:4008], bytes(8))),
        lambda: file.write_bytes(b""),
        lambda: change(features=np.full((12, 64), np.nan, np.float32)),
        lambda: change(mu=np.zeros(63)),
        lambda: change(made="{}"),
        lambda: change(made=json.dumps(made)),
    ):
        damage()
        again = references.compute_or_read(images, wrn, 64)
        assert (again.features == reference.features).all()
        assert np.allclose(again.gaussians["pool"].mean, reference.gaussians["pool"].mean)
    assert capsys.readouterr().err.count("computing the statistics of set again") == 6


def test_two_programs_do_not_compute_one_reference_at_once(tmp_path):
    wrn = extractors.load(untrained_classifier(tmp_path / "wrn"), one_device())
    images = as_set(pixels(12))
    with workspace(image_sets.partial(images, wrn), "wait"), expect_error("", "process", "wait"):
        references.compute_or_read(images, wrn, 64)
    assert references.compute_or_read(images, wrn, 64).name == "set"
    assert not list((wrn.directory / "partial").iterdir())


@pytest.fixture
def scoring(tmp_path):
    """Returns ``score(**changes)``, which scores 12 random samples; it counts what is drawn."""
    wrn = extractors.load(untrained_classifier(tmp_path / "wrn"), one_device())
    reference = references.compute_or_read(as_set(pixels(12)), wrn, 64)
    facts = dict(image_shape=SHAPE, num_classes=10, sampling=Sampling(), run="run", step=6)
    facts |= dict(average="ema0.9", weights={"run": "a"})

    def score(seeds=(0,), npz=False, **changes):
        drawn = []

        def draw(seed, ids):
            drawn.append(seed)
            return pixels(12, seed=seed + 1)[ids]

        samples = Samples(draw=draw, **facts | changes)
        out = tmp_path / "scores"
        results = score_samples(samples, wrn, reference, out, n=12, seeds=seeds, npz=npz)
        return results, drawn

    return score


def test_scores_of_other_weights_are_not_taken_for_these(scoring, tmp_path):
    first, drawn = scoring()
    assert drawn == [0] and first["weights"] == {"run": "a"}
    again, drawn = scoring()
    assert drawn == [] and again["rows"] == first["rows"]
    for changes in (
        dict(weights={"run": "b"}),
        dict(weights={"run": "a", "guide": "b"}),
        dict(step=7),
        dict(sampling=Sampling(steps=50)),
        dict(sampling=Sampling(options={"clip": False})),
    ):
        with expect_error(f"{tmp_path / 'scores.json'}", next(iter(changes)), "another --out"):
            scoring(**changes)


def test_damaged_scores_are_refused(scoring, tmp_path):
    scoring()
    file = tmp_path / "scores.json"
    content = json.loads(file.read_text())
    row = content["rows"][0]
    for rows in (
        None,
        [1],
        [{"fd": 1.0}],
        [{"seed": 0}],
        [row | {"seed": 0.5}],
        [row | {"fd": "1"}],
        [row | {"fd": float("nan")}],
        [{"seed": 0, "fd": 1.0}, row | {"seed": 1}],
    ):
        file.write_text(json.dumps(content | {"rows": rows}))
        with expect_error(f"{file}", "scores", "remove"):
            scoring(seeds=(0, 1))
    file.write_text(file.read_text()[:-9])
    with expect_error(f"{file}", "scores", "remove"):
        scoring()


def test_two_programs_do_not_write_one_file_of_scores(scoring, tmp_path):
    work = unfinished(tmp_path / "scores")
    with workspace(work, "wait"), expect_error(f"{work}", "process", "--out"):
        scoring()
    assert scoring()[1] == [0]


def test_images_belong_to_their_scores(scoring, tmp_path, monkeypatch):
    """Samples that other weights left at the same path are not taken for these."""
    file = tmp_path / "scores-seed0.npz"
    np.savez(file, arr_0=np.zeros((12, *SHAPE), np.uint8))
    scoring()
    results, drawn = scoring(npz=True)
    assert drawn == [0] and results["npz"] == [0]
    assert (np.load(file)["arr_0"] == pixels(12, seed=1)).all()
    assert scoring(npz=True)[1] == []
    file.unlink()
    assert scoring(npz=True)[1] == [0]


def test_images_of_a_stopped_program_that_were_cut_are_drawn_again(scoring, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ddaepp_jax.scoring.samples._save", stop)
    with pytest.raises(KeyboardInterrupt):
        scoring(npz=True)
    monkeypatch.undo()
    (images,) = tmp_path.rglob("images.npy")
    images.write_bytes(images.read_bytes()[:300])
    assert scoring(npz=True)[1] == [0]
    assert (np.load(tmp_path / "scores-seed0.npz")["arr_0"] == pixels(12, seed=1)).all()


def test_guides_are_told_apart_by_their_weights(run):
    """Two runs named "run" guide; the text of the sampling is the same."""
    guides = [copy.copy(run) for _ in range(2)]
    guides[1].params = jax.tree.map(lambda leaf: leaf + 1, run.params)
    first, second = (run.samples(guide=guide, autoguidance=2.0) for guide in guides)
    assert first.sampling == second.sampling and first.weights["run"] == second.weights["run"]
    assert first.weights["guide"] == first.weights["run"] != second.weights["guide"]
    assert list(run.samples().weights) == ["run"]


def test_wrong_sampling_is_refused_before_anything_is_drawn(run):
    for wrong, field in (
        (dict(steps=0), "steps"),
        (dict(sampler="heun"), "sampler"),
        (dict(autoguidance=2.0), "autoguidance"),
        (dict(guidance_channels=9), "guidance_channels"),
    ):
        with expect_error(field):
            run.samples(**wrong)


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
    recipe = classifier.Recipe(depth=10, width=1, batch_size=128)
    monkeypatch.setattr(classifier, "Recipe", lambda: recipe)
    arguments = ["--images=digits:test", "--reference=digits:train", "--extractor=classifier"]
    arguments.append("--classifier_images=2560")
    fid.main(arguments)
    monkeypatch.setattr(classifier, "train", lambda *_, **__: pytest.fail("trained again"))
    first = capsys.readouterr().out
    fid.main(arguments)
    assert capsys.readouterr().out.splitlines()[-5:] == first.splitlines()[-5:]
    assert first.startswith("training a classifier of digits train, once, in 20 steps of 128")
    data = by_name.ClassifierData.of_config(config(), 2560)
    directory = by_name.extractor_directory("classifier", data)
    assert directory.name.startswith("classifier_digits_8x8x1_2560_")
    facts = json.loads((directory / "extractor.json").read_text())
    assert facts["made"]["recipe"]["images"] == 2560
    assert facts["made"]["accuracy"] > 30 and facts["made"]["data"] == "digits"
    assert facts["arguments"] == dict(num_classes=10, depth=10, width=1, stride=1)


def test_other_data_have_another_classifier_and_another_place_the_same():
    digits = datasets.digits("train")
    images, labels = digits.arrays()

    def directory(images, labels, **changes):
        data = dataclasses.replace(
            digits, read=lambda ids: (images[ids], labels[ids]), length=len(images), **changes
        )
        return by_name.ClassifierData.of_splits(data, lambda: digits).directory_name

    ours = directory(images, labels)
    pixel = images.copy()
    pixel[777, 0, 0] ^= 1
    label = labels.copy()
    label[777] ^= 1
    named = tuple("abcdefghij")
    others = [
        directory(pixel, labels),
        directory(images, label),
        directory(images, labels, class_names=named),
        directory(images[:-1], labels[:-1]),
    ]
    assert ours.startswith("classifier_digits_8x8x1_15000_")
    assert len({ours, *others}) == 5
    places = [directory(images, labels, folder=Path(place), name=place) for place in "ab"]
    assert places[0] == places[1]


@pytest.mark.parametrize(("count", "seen"), [(5, 10_000), (1500, 15_000), (10**6, 500_000)])
def test_a_classifier_sees_as_much_as_its_data_need(count, seen):
    assert classifier.images_for(count) == seen


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
