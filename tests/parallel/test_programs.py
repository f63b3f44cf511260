"""Programs compute the same on eight devices as on one, and a run moves between the two."""

import json
import shutil

import jax
import numpy as np
import pytest
from helpers.pixels import check_pixels_equal
from helpers.run import CONDITIONAL, NO_EVALS, config, snapshots
from helpers.scores import differ

from ddaepp_jax import build, linear_probe, load
from ddaepp_jax.base import parallel
from ddaepp_jax.data import datasets
from ddaepp_jax.run.train import train_and_evaluate
from ddaepp_jax.scoring import extractors, image_sets, references
from ddaepp_jax.scoring.metrics import scores
from ddaepp_jax.scoring.samples import score_samples
from ddaepp_jax.search.search import search
from ddaepp_jax.training.checkpoint import steps_of


def check_equal(one, other):
    """Checks that all arrays are equal, bit for bit."""
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), one, other
    )


@pytest.fixture
def on_one_device(monkeypatch):
    """Returns a function that is ``load`` on a machine with one device."""
    first = jax.devices()[:1]

    def load_on_one(*args, **kwargs):
        with monkeypatch.context() as patched:
            patched.setattr(jax, "devices", lambda: first)
            return load(*args, **kwargs)

    return load_on_one


# ---- training ----


def test_run_continues_with_other_shards(conditional, tmp_path):
    """A checkpoint of 8 x 1 devices is restored bit for bit on 2 x 4, with sharded parameters."""
    run = shutil.copytree(conditional, tmp_path / "run")
    train_and_evaluate(config(**CONDITIONAL, mesh__data=2, mesh__fsdp=4), run)
    check_equal(load(run).state(), load(conditional).state())


@pytest.mark.slow
def test_dry_run_shows_the_shards(tmp_path, capsys):
    train_and_evaluate(
        config(**NO_EVALS, mesh__data=2, mesh__fsdp=4), tmp_path / "run", dry_run=True
    )
    out = capsys.readouterr().out
    lines = [line.strip() for line in out.splitlines()]
    (line,) = (line for line in lines if line.startswith("network/mid/attn/qkv/kernel:"))
    assert "fsdp" in line


@pytest.mark.slow
def test_sharded_averages_are_the_same(conditional, tmp_path):
    """Snapshots saved in parts are opened whole, and equal unsharded ones up to rounding."""
    sharded = config(**CONDITIONAL | dict(mesh__data=2, mesh__fsdp=4, train__steps=3))
    train_and_evaluate(sharded, tmp_path / "run")
    assert steps_of(tmp_path / "run" / "snapshots") == [3]
    for one, other in zip(snapshots(tmp_path / "run", 3), snapshots(conditional, 3), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), one, other)


@pytest.mark.slow
def test_the_search_streams_its_data_on_eight_devices(tmp_path, monkeypatch):
    tiny = config(train__steps=4)
    curves = {}
    for name, mesh, device_bytes in (("resident", (1, 1, 1), 2**30), ("streamed", (2, 4, 1), 0)):
        devices = jax.devices()[: int(np.prod(mesh))]
        monkeypatch.setattr(
            build, "mesh", lambda config, m=mesh, d=devices: parallel.make_mesh(m, d)
        )
        tiny.data.device_bytes = device_bytes
        search(tiny, tmp_path / name, seeds=(0,))
        rows = (tmp_path / name / "curves.jsonl").read_text().splitlines()
        curves[name] = [json.loads(row)["loss"] for row in rows]
    np.testing.assert_allclose(curves["streamed"], curves["resident"], rtol=1e-5)


# ---- features, samples, probes, scores ----


@pytest.mark.parametrize(
    "sampler",
    ["ddim", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dpmpp_2m", "ddpm"))],
)
def test_samples_are_those_of_one_device(run, on_one_device, conditional, sampler):
    one = on_one_device(conditional)
    assert run.mesh.size == 8 and one.mesh.size == 1
    images = [r.sample(n=60, steps=5, sampler=sampler, guidance=2.0) for r in (one, run)]
    check_pixels_equal(*images)


def test_features_are_those_of_one_device(run, on_one_device, conditional):
    images = datasets.digits("test").batch(np.arange(11))["image"]
    one, eight = (
        r.features(images, noise_level=11, layers=run.layers, draws=2)
        for r in (on_one_device(conditional), run)
    )
    for layer in run.layers:
        np.testing.assert_allclose(eight[layer], one[layer], atol=2e-5)


@pytest.mark.slow
def test_a_run_sharded_over_eight_devices_opens_on_one(on_one_device, tmp_path):
    """Its checkpoint was saved in parts, and by eight devices."""
    mesh = dict(mesh__data=1, mesh__fsdp=8)
    train_and_evaluate(config(**NO_EVALS | mesh, train__steps=3), tmp_path / "run")
    one, eight = on_one_device(tmp_path / "run"), load(tmp_path / "run")
    assert (one.mesh.size, eight.mesh.size) == (1, 8)
    check_equal(one.params, eight.params)
    images = datasets.digits("test").batch(np.arange(11))["image"]
    features = [r.features(images, noise_level=11, layers=r.layers) for r in (one, eight)]
    for layer in one.layers:
        assert features[0][layer].std() > 0
        np.testing.assert_allclose(features[0][layer], features[1][layer], atol=2e-5)


@pytest.mark.slow
def test_average_made_from_snapshots_is_the_same_bit_for_bit(conditional, on_one_device):
    one = on_one_device(conditional, sigma_rel=0.06)
    check_equal(load(conditional, sigma_rel=0.06).params, one.params)


@pytest.mark.parametrize("protocol", ["cached", pytest.param("online", marks=pytest.mark.slow)])
def test_probe_is_that_of_one_device(conditional, on_one_device, tmp_path, protocol):
    """Features agree to 2e-5, so that at most two images change their class."""
    rows = {}
    for run in (load(conditional), on_one_device(conditional)):
        settings = linear_probe.settings(
            run, protocol, levels=(11,), epochs=5, batch_size=264, learning_rates=(1e-2,)
        )
        devices = run.mesh.size
        rows[devices] = linear_probe.probe(run, settings, tmp_path / str(devices))["rows"]
    for one, eight in zip(rows[1], rows[8], strict=True):
        assert one["layer"] == eight["layer"]
        for name in ("alignment", "uniformity", "effective_rank", "spread"):
            assert eight[name] == pytest.approx(one[name], rel=1e-3)
        for name in ("linear_test", "knn_test"):
            assert abs(one[name] - eight[name]) <= 200 / 297 + 1e-9


@pytest.mark.parametrize("batch_size", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_scores_are_those_of_one_device(conditional, extractor, tmp_path, batch_size):
    """37 samples and 297 images do not divide by the number of devices; each counts once."""
    results = {}
    for devices, size in ((1, 37), (8, batch_size)):
        mesh = parallel.make_mesh((devices, 1, 1), jax.devices()[:devices])
        run = load(conditional)
        run.mesh = mesh
        run.params = jax.device_put(run.params, parallel.replicated(mesh))
        wrn = extractors.load(shutil.copytree(extractor, tmp_path / f"wrn{devices}"), mesh)
        test, train = (
            image_sets.of_dataset(datasets.digits(split), split) for split in ("test", "train")
        )
        features = image_sets.collect(test, wrn, tmp_path / str(devices), size)
        assert len(features["pool"]) == 297
        reference = references.compute_or_read(train, wrn, 64)
        out = tmp_path / f"{devices}-scores"
        samples = run.samples(batch_size=size)
        (of_run,) = score_samples(samples, wrn, reference, out, n=37, seeds=(0,))["rows"]
        results[devices] = (np.array(features["pool"]), scores(features, reference), of_run)
    (pool_1, of_set_1, of_run_1), (pool_8, of_set_8, of_run_8) = results.values()
    assert np.abs(pool_1 - pool_8).max() < 1e-5 * np.abs(pool_1).max()
    assert differ(of_set_1, of_set_8) < 1e-6 and differ(of_run_1, of_run_8) < 1e-4
