"""A run directory of version 0.1.0 opens, resumes and reports; the names of metrics are those of
that version.
"""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.errors import expect_error
from helpers.extractor import untrained_classifier
from helpers.run import ROOT, rows

from ddaepp_jax import fid, linear_probe, load, report
from ddaepp_jax.config import get_config
from ddaepp_jax.data.datasets import digits
from ddaepp_jax.run.train import train_and_evaluate
from ddaepp_jax.search.search import search


@pytest.fixture
def old(tmp_path) -> Path:
    """The unpacked files: ``run``, a run directory; ``search``, a search; ``expected.npz``, what
    0.1.0 computed.
    """
    with tarfile.open(ROOT / "tests" / "golden" / "run_0_1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def same_run(**fields):
    """The config of the run, with other fields by their dotted names, dots written as two
    underscores.
    """
    config = get_config("tiny")
    own = dict(model__width=16, optimizer__schedule="constant", logging__tensorboard=False)
    own |= dict(ema__sigma_rel=(0.05, 0.1), ema__snapshot_every=2, evals__heldout_loss__images=16)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in (own | fields).items()})
    return config


def names(workdir: Path, step: int) -> list[str]:
    """The sorted names of all metrics of a step."""
    return sorted({name for row in rows(workdir) if row["step"] == step for name in row} - {"step"})


def test_it_opens_with_the_same_numbers(old):
    expected = np.load(old / "expected.npz")
    images = digits("test").batch(np.arange(4))["image"]
    run = load(old / "run")
    features = run.features(images, noise_level=500, layers=run.layers, seed=3)
    for layer, feature in features.items():
        np.testing.assert_allclose(feature, expected[layer], atol=1e-5, err_msg=layer)
    combined = load(old / "run", sigma_rel=0.07).features(images, 500, layers=["out_1"], seed=3)
    np.testing.assert_allclose(combined["out_1"], expected["sigma_rel_out_1"], atol=1e-5)
    samples = run.sample(n=4, seed=1).astype(int)
    assert np.abs(samples - expected["samples"]).max() <= 1


def test_it_resumes_with_the_same_numbers_and_names(old):
    expected = np.load(old / "expected.npz")
    before = names(old / "run", 4)
    train_and_evaluate(same_run(train__steps=6), old / "run")
    values = {
        name: value for row in rows(old / "run") if row["step"] == 6 for name, value in row.items()
    }
    np.testing.assert_allclose(values["loss"], expected["loss"], rtol=1e-5)
    np.testing.assert_allclose(values["heldout_loss/ema0.999/mean"], expected["heldout"], rtol=1e-5)
    assert names(old / "run", 4) == names(old / "run", 6) == before


def test_its_probe_is_resumed(old):
    (file,) = set((old / "run" / "probe").glob("*.json")) - {old / "run" / "probe" / "best.json"}
    before = json.loads(file.read_text())
    linear_probe.main([f"--workdir={old / 'run'}", "--epochs=2", "--levels=11,21"])
    after = json.loads(file.read_text())
    assert after["levels"] == [11, 21] and after["seconds"]["11"] == before["seconds"]["11"]
    assert [row for row in after["rows"] if row["noise_level"] in (None, 11)] == before["rows"]
    assert before["best"]["metric"] == "linear_probe/out_1/t11/cached-2ep"
    best = json.loads((old / "run" / "probe" / "best.json").read_text())
    assert best["metric"] == after["best"]["metric"] and best["metric"].endswith("/cached-2ep")


def test_its_scores_are_kept_apart(old, tmp_path):
    """They do not say which weights they are of, so no seed is added to them."""
    (file,) = (old / "run" / "fid").glob("*.json")
    before = file.read_text()
    extractor = untrained_classifier(tmp_path / "classifier")
    with expect_error(f"{file}", "weights: None", "another --out"):
        fid.main([f"--workdir={old / 'run'}", "--n=16", f"--extractor={extractor}", "--seeds=0,1"])
    assert file.read_text() == before


def test_its_search_is_resumed(old):
    before = (old / "search" / "curves.jsonl").read_text()
    config = get_config("tiny")
    config.model.update(width=16, depth=4)
    blocks = json.loads((old / "search" / "bottleneck.json").read_text())["candidates"]
    again = search(config, old / "search", steps=4, seeds=(0, 1))
    assert list(again["candidates"]) == list(blocks) == ["in_1", "in_2", "mid", "out_1"]
    assert (old / "search" / "curves.jsonl").read_text() == before


def test_it_is_reported(old):
    report.main([f"--workdir={old / 'run'}"])
    page = (old / "run" / "report.html").read_text()
    for text in (
        "linear_probe/out_1/t11/cached-2ep",
        "classifier-fd16/ema0.999/ddpm4/train",
        "Effective rank",
    ):
        assert text in page


@pytest.mark.slow  # two objectives, six evaluations
def test_a_new_runs_metrics_have_the_same_names(old, extractor, tmp_path):
    """Every evaluation and both objectives; ``extractor`` is copied, as statistics are kept in
    it.
    """
    copied = shutil.copytree(extractor, tmp_path / "extractor")
    scoring = dict(evals__fid__every=4, evals__fid__extractor=str(copied))
    distilled = dict(objectives__distillation__weight=0.1, model__augment_dim=9)
    train_and_evaluate(same_run(**scoring, **distilled), tmp_path / "new")
    assert (tmp_path / "new" / "samples" / "00000004.png").is_file()
    objective = [f"distillation/{name}" for name in ("accuracy", "loss", "spread")]
    scores = [
        "fd16/{}/train",
        "kid16/{}/train",
        "precision16/{}/train",
        "recall16/{}/train",
        "score16/{}",
    ]
    scores = [f"fid/ema0.999/classifier-{score}".format("ddpm4") for score in scores]
    assert names(tmp_path / "new", 4) == sorted([*names(old / "run", 4), *objective, *scores])
    assert names(old / "run", 4) == [
        "denoising/loss",
        "features/ema0.999/bottleneck/t11/alignment",
        "features/ema0.999/bottleneck/t11/effective_rank",
        "features/ema0.999/bottleneck/t11/spread",
        "features/ema0.999/bottleneck/t11/uniformity",
        "grad_norm",
        "heldout_loss/ema0.999/condition_off",
        "heldout_loss/ema0.999/mean",
        "heldout_loss/ema0.999/t0001",
        "heldout_loss/ema0.999/t0500",
        "heldout_loss/ema0.999/t1000",
        "images_per_second_per_device",
        "knn/ema0.999/bottleneck/t11",
        "loss",
        "probe/ema0.999/bottleneck/t11",
    ]
