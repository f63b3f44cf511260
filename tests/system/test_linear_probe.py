"""The program ``linear_probe``: its results, and that a stopped probe resumes.

tests/parallel compares numbers of devices.
"""

import csv
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.errors import expect_error

import ddaepp_jax
from ddaepp_jax import linear_probe
from ddaepp_jax.base import dispatch
from ddaepp_jax.data.augment import random_crop
from ddaepp_jax.data.datasets import digits
from ddaepp_jax.probing import heads as linear
from ddaepp_jax.probing import neighbours, online, scaling, splits, stored
from ddaepp_jax.probing.diagnostics import diagnose
from ddaepp_jax.probing.features import pool
from ddaepp_jax.probing.level import group_layers
from ddaepp_jax.probing.probe import best_row
from ddaepp_jax.probing.protocols import PROTOCOLS
from ddaepp_jax.probing.splits import Splits, split_rows
from ddaepp_jax.reporting import probes


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("probe") / "whole"
    return linear_probe.probe(run, linear_probe.settings(run, levels=(1, 11), epochs=20), out)


@pytest.mark.smoke
def test_the_program_writes_results_and_the_best_row(conditional, tmp_path):
    workdir = shutil.copytree(conditional, tmp_path / "run")
    linear_probe.main([f"--workdir={workdir}", "--levels=1,11", "--epochs=3", "--knn=5"])
    out = workdir / "probe" / "step32-ema0.9-cached-3ep"
    results = json.loads(Path(f"{out}.json").read_text())
    assert [(row["layer"], row["noise_level"]) for row in results["rows"]] == [
        ("pixels", None),
        *((layer, level) for level in (1, 11) for layer in ("in_1", "mid", "out_1")),
    ]
    with Path(f"{out}.csv").open() as file:
        assert [row["layer"] for row in csv.DictReader(file)] == [
            row["layer"] for row in results["rows"]
        ]
    inner = [row for row in results["rows"] if row["layer"] != "pixels"]
    best = max(inner, key=lambda row: row["linear_held_out"])
    stored_best = json.loads((workdir / "probe" / "best.json").read_text())
    assert {name: stored_best[name] for name in best} == best
    assert (
        stored_best["metric"] == f"linear_probe/{best['layer']}/t{best['noise_level']:g}/cached-3ep"
    )
    assert results["data"] == {
        "name": "digits",
        "heads trained on": "1350 images of train",
        "chosen on": "150 images of train, held out from the heads",
        "tested on": "297 images of test",
        "diagnosed on": "two views each of 150 that choose",
    }
    run = ddaepp_jax.load(workdir)
    assert (run.probed["layer"], run.probed["noise_level"]) == (best["layer"], best["noise_level"])
    for name in ("grid", "layers"):
        assert Path(f"{out}-{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert not Path(f"{out}-partial").exists()


def test_every_image_counts_once(whole):
    for row in whole["rows"]:
        for part, count in (("held_out", 150), ("test", 297)):
            for head in ("linear", "knn"):
                right = row[f"{head}_{part}"] * count / 100
                assert 0 < right < count and abs(right - round(right)) < 1e-6


def test_a_trained_network_beats_chance_and_learning_rates_are_chosen(whole):
    assert whole["best"]["linear_test"] > 15
    assert {row["learning_rate"] for row in whole["rows"]} <= set(
        PROTOCOLS["cached"].learning_rates
    )


def test_stored_features_are_the_runs_own(run, tmp_path, monkeypatch):
    """Image i's noise is a function of (seed, i); numbers of the test split follow the others."""
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    linear_probe.probe(
        run, linear_probe.settings(run, levels=(11,), epochs=1, knn=0, seed=5), tmp_path / "probe"
    )
    directory = tmp_path / "probe-partial" / "level-11"
    features_on_disk = {
        layer: np.load(directory / f"{layer}.npy") for layer in ("in_1", "mid", "out_1", "labels")
    }
    images, labels = digits("train").arrays()
    test = digits("test")
    rows, held_out_rows = split_rows(1500, 0.1, 5)
    np.testing.assert_array_equal(
        features_on_disk["labels"],
        np.concatenate([labels[rows], labels[held_out_rows], test.arrays()[1]]),
    )
    expected = run.features(images, 11, ["in_1", "mid", "out_1"], seed=5)
    for layer, feature in expected.items():
        np.testing.assert_allclose(features_on_disk[layer][:1350], feature[rows], atol=2e-5)
    # The first test image has the noise of number 1500.
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(feature_key(5), i), 0))(
        np.arange(1500, 1502)
    )
    noise = jax.vmap(lambda key: jax.random.normal(key, (8, 8, 1)))(keys)
    x_t = run.process.perturb(
        test.arrays()[0][:2].astype(np.float32) / 127.5 - 1, noise, np.array([11, 11])
    )
    _, features = run.module.apply(
        {"params": run.params}, *run.process.inputs(x_t, jax.numpy.array([11, 11]))
    )
    np.testing.assert_allclose(features_on_disk["mid"][1500:1502], pool(features["mid"]), atol=2e-5)


DIAGNOSES = ("alignment", "uniformity", "effective_rank", "spread")


def test_two_views_of_the_images_that_choose_are_diagnosed(run, whole, tmp_path):
    _, ids = split_rows(1500, 0.1, 0)
    images = jax.numpy.asarray(digits("train").arrays()[0][ids])
    level = np.full(150, 11)
    both_views = []
    for view in range(2):
        x0 = random_crop(images, 0, view, ids, pad=1).astype(np.float32) / 127.5 - 1
        keys = jax.vmap(
            lambda i, view=view: jax.random.fold_in(jax.random.fold_in(feature_key(0), i), view)
        )(ids)
        x_t = run.process.perturb(
            x0, jax.vmap(lambda key: jax.random.normal(key, (8, 8, 1)))(keys), level
        )
        _, features = run.module.apply(
            {"params": run.params}, *run.process.inputs(x_t, jax.numpy.asarray(level))
        )
        both_views.append(
            {"pixels": np.asarray(x0).reshape(150, -1), "mid": np.asarray(pool(features["mid"]))}
        )
    for row in whole["rows"]:
        assert [name for name in row if name in DIAGNOSES] == list(DIAGNOSES)
        if (row["layer"], row["noise_level"]) in (("pixels", None), ("mid", 11)):
            expected = diagnose(*(view[row["layer"]] for view in both_views))
            assert {name: row[name] for name in DIAGNOSES} == pytest.approx(expected, rel=1e-3)


def test_diagnosed_images_are_spread_evenly_over_many(monkeypatch):
    monkeypatch.setattr(splits, "DIAGNOSED", 100)
    images = Splits(digits("train"), digits("test"), held_out=0, seed=0)
    np.testing.assert_array_equal(images.diagnosed, np.arange(1500, 1797, 3))


def test_an_older_probe_is_refused_and_still_shown(run, whole, tmp_path):
    chosen, out = linear_probe.settings(run, levels=(1, 11), epochs=20), tmp_path / "probe"
    strip = lambda row: {name: value for name, value in row.items() if name not in DIAGNOSES}
    old = whole | {"rows": [strip(row) for row in whole["rows"]], "best": strip(whole["best"])}
    out.with_suffix(".json").write_text(json.dumps(old))
    with expect_error(str(out.with_suffix(".json")), "remove"):
        linear_probe.probe(run, chosen, out)
    assert "spread" not in probes.table(old) and "spread" in probes.table(whole)
    assert not probes.collapsed(old) and not probes.collapsed(whole)


def test_collapse_is_named_beneath_the_table(whole):
    rows = [
        row | ({"effective_rank": 1.5} if row["noise_level"] == 1 else {}) for row in whole["rows"]
    ]
    lines = probes.table(whole | {"rows": rows}).splitlines()[-3:]
    text = (
        "the features have collapsed: images differ along a direction or two (effective rank 1.50)"
    )
    assert lines == [f"warning: {layer}, level 1: {text}" for layer in ("in_1", "mid", "out_1")]


def test_the_last_lines_are_the_chosen_features_beside_raw_pixels(whole):
    """The row is best on average by both heads, on the images that choose."""
    pixels, *inner = whole["rows"]
    best = max(inner, key=lambda row: row["linear_held_out"] + row["knn_held_out"])
    titles, _, linear, knn = probes.summary(whole).splitlines()
    assert f"{best['layer']}, level {best['noise_level']:g}" in titles
    for line, head in ((linear, "linear_test"), (knn, "knn_test")):
        assert line.split()[-2:] == [f"{best[head]:.1f}", f"{pixels[head]:.1f}"]


def feature_key(seed):
    from ddaepp_jax.base.streams import named

    return named(jax.random.key(seed), "features")


class Stopped(Exception):
    pass


def stop_at(monkeypatch, module, name, count):
    """Makes the count-th call of a function raise, as a kill would; returns the list of calls."""
    whole, calls = getattr(module, name), []

    def counted(*args, **kwargs):
        calls.append(1)
        if len(calls) == count:
            raise Stopped
        return whole(*args, **kwargs)

    monkeypatch.setattr(module, name, counted)
    return calls


def same_rows(one, other):
    assert [{**row} for row in one["rows"]] == [{**row} for row in other["rows"]]


@pytest.mark.parametrize("call", [1, 3, 6])
def test_a_stopped_probe_resumes(run, whole, tmp_path, monkeypatch, call):
    """Features on disk are not computed again, and the results are the same."""
    chosen = linear_probe.settings(run, levels=(1, 11), epochs=20)
    monkeypatch.setattr(dispatch, "SAVE_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        stop_at(patch, stored, "write_json", 4 * call)
        with pytest.raises(Stopped):
            linear_probe.probe(run, chosen, tmp_path / "probe")
    reads = stop_at(monkeypatch, Splits, "read", 10**9)
    same_rows(linear_probe.probe(run, chosen, tmp_path / "probe"), whole)
    assert (
        0 < len(reads) <= 24 - 4 * call + 2 + 6
    )  # 8 batches for pixels and each level, and two of views
    same_rows(
        linear_probe.probe(run, chosen, tmp_path / "probe"), whole
    )  # and once more: nothing is left to do
    assert not (tmp_path / "probe-partial").exists()


def test_features_of_other_settings_are_not_reused(run, whole, tmp_path, monkeypatch):
    """A probe is stopped before its first result, and started again with another seed."""
    monkeypatch.setattr(dispatch, "SAVE_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        stop_at(patch, stored, "write_json", 5)
        with pytest.raises(Stopped):
            linear_probe.probe(
                run,
                linear_probe.settings(run, levels=(1, 11), epochs=20, seed=7),
                tmp_path / "probe",
            )
    assert (tmp_path / "probe-partial").exists() and not (tmp_path / "probe.json").exists()
    same_rows(
        linear_probe.probe(
            run, linear_probe.settings(run, levels=(1, 11), epochs=20), tmp_path / "probe"
        ),
        whole,
    )


def test_online_resumes_and_is_not_cached(run, whole, tmp_path, monkeypatch):
    chosen = linear_probe.settings(
        run, "online", levels=(11,), epochs=4, batch_size=256, learning_rates=(1e-2,)
    )
    assert chosen.tag == "crop-4ep" and not chosen.flip  # digits are not mirrored
    results = linear_probe.probe(run, chosen, tmp_path / "whole")
    monkeypatch.setattr(dispatch, "SAVE_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        stop_at(patch, online, "replace", 30)  # of 22 steps for pixels and as many for the level
        with pytest.raises(Stopped):
            linear_probe.probe(run, chosen, tmp_path / "stopped")
    steps = stop_at(monkeypatch, online, "batch_indices", 10**9)
    same_rows(linear_probe.probe(run, chosen, tmp_path / "stopped"), results)
    assert len(steps) == 22 - 7
    knn = [row["knn_test"] for row in whole["rows"] if row["noise_level"] == 11]
    assert [
        row["knn_test"] for row in results["rows"] if row["noise_level"] == 11
    ] == knn  # no head: no difference
    assert results["best"]["linear_test"] != whole["best"]["linear_test"]


def test_order_of_layers_does_not_matter(run, tmp_path):
    rows = []
    for layers in (("in_1", "mid", "out_1"), ("out_1", "in_1", "mid")):
        chosen = linear_probe.settings(
            run,
            "online",
            layers=layers,
            levels=(11,),
            epochs=3,
            batch_size=256,
            learning_rates=(1e-2,),
            knn=0,
        )
        results = linear_probe.probe(run, chosen, tmp_path / layers[0])["rows"]
        rows.append({row["layer"]: row["linear_test"] for row in results})
    assert rows[0] == rows[1] and len(set(rows[0].values())) > 2


def test_more_levels_join(run, whole, tmp_path):
    for levels in ((11,), (1,)):
        results = linear_probe.probe(
            run, linear_probe.settings(run, levels=levels, epochs=20), tmp_path / "probe"
        )
    assert results["levels"] == whole["levels"] == [1, 11] and results["best"] == whole["best"]
    by_cell = lambda rows: {(row["layer"], row["noise_level"]): row for row in rows}
    assert by_cell(results["rows"]) == by_cell(whole["rows"])
    np.testing.assert_array_equal(
        *(probes.grid(probed, "knn_test")[2] for probed in (results, whole))
    )


def test_imagenet_protocol_standardises_without_neighbours(run, tmp_path):
    chosen = linear_probe.settings(run, "imagenet", levels=(11,), epochs=4, batch_size=256, knn=0)
    results = linear_probe.probe(run, chosen, tmp_path / "probe")
    assert "knn_test" not in results["best"] and results["settings"]["standardise"]
    plain = linear_probe.settings(
        run, "imagenet", levels=(11,), epochs=4, batch_size=256, knn=0, standardise=False
    )
    other = linear_probe.probe(run, plain, tmp_path / "plain")
    pixels, unscaled = results["rows"][0]["linear_test"], other["rows"][0]["linear_test"]
    assert pixels > 50 and abs(pixels - unscaled) > 1
    probes.figures(results)


def test_results_say_when_the_test_split_chooses(run, tmp_path):
    chosen = linear_probe.settings(run, levels=(11,), epochs=3, held_out=0, knn=0)
    results = linear_probe.probe(run, chosen, tmp_path / "probe")
    assert results["data"]["heads trained on"] == "1500 images of train"
    assert results["data"]["chosen on"] == "the test split (test), as no image was held out"
    assert results["best"]["chosen_by"] == "linear_test"
    assert "linear_held_out" not in results["best"]
    assert "held" not in probes.table(results)


def test_layers_are_grouped_by_what_the_device_holds():
    sizes = {"a": 10, "b": 10, "c": 30, "d": 10}
    assert group_layers(sizes, 100, 8000) == [["a", "b"], ["c"], ["d"]]
    assert group_layers(sizes, 100, 10**9) == [["a", "b", "c", "d"]]


def test_groups_change_nothing(run, whole, tmp_path):
    small = ddaepp_jax.load(run.workdir)
    small.config.data.device_bytes = 200_000  # the images, or one layer's features, at a time
    results = linear_probe.probe(
        small, linear_probe.settings(small, levels=(1, 11), epochs=20), tmp_path / "probe"
    )
    for one, other in zip(results["rows"], whole["rows"], strict=True):
        assert one["layer"] == other["layer"] and one["knn_test"] == other["knn_test"]
        assert abs(one["linear_test"] - other["linear_test"]) <= 100 / 297 + 1e-9


def test_held_out_images_train_no_head_and_choose_the_learning_rate(run, tmp_path, monkeypatch):
    """Heads are trained on 1350 images, chosen on 150 and tested on 297."""
    lengths = {"standard_scale": set(), "fit": set(), "knn_accuracy": set()}
    standard_scale = scaling.standard_scale
    fit = linear.fit

    def recorded_scale(features):
        lengths["standard_scale"] |= {len(feature) for feature in features.values()}
        return standard_scale(features)

    def recorded_fit(features, labels, *args, **kwargs):
        lengths["fit"] |= {len(array) for array in (*features.values(), labels)}
        return fit(features, labels, *args, **kwargs)

    def knn_accuracy(bank, bank_labels, query, query_labels, k):
        lengths["knn_accuracy"] |= {len(bank), len(bank_labels)}
        return len(query_labels) / 1000

    test = [0.9, 0.2, 0.3, 0.4]
    held_out = [0.1, 0.2, 0.9, 0.4]
    accuracies = lambda heads, features, labels, scales: dict.fromkeys(
        features, held_out if len(labels) == 150 else test
    )
    monkeypatch.setattr(scaling, "standard_scale", recorded_scale)
    monkeypatch.setattr(linear, "fit", recorded_fit)
    monkeypatch.setattr(linear, "accuracies", accuracies)
    monkeypatch.setattr(neighbours, "knn_accuracy", knn_accuracy)
    results = linear_probe.probe(
        run, linear_probe.settings(run, levels=(11,), epochs=1, knn=5), tmp_path / "probe"
    )
    assert lengths == {name: {1350} for name in lengths}
    for row in results["rows"]:
        assert row["learning_rate"] == PROTOCOLS["cached"].learning_rates[2]
        assert (row["linear_held_out"], row["linear_test"]) == (90, 30)
        assert (row["knn_held_out"], row["knn_test"]) == pytest.approx((15, 29.7))


def test_held_out_images_choose_the_best_row(run):
    rows = [
        {"layer": layer, "noise_level": 11, "linear_held_out": held_out, "linear_test": test}
        for layer, held_out, test in (("pixels", 99, 99), ("in_1", 50, 80), ("mid", 60, 70))
    ]
    best = lambda held_out: best_row(rows, linear_probe.settings(run, held_out=held_out), "t")
    assert (best(0.1)["layer"], best(0)["layer"]) == ("mid", "in_1")
