"""What a probe says it is of, and which files of a run it writes; no feature is computed."""

import copy
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.errors import expect_error
from PIL import Image

import ddaepp_jax
from ddaepp_jax import linear_probe
from ddaepp_jax.base.lock import locked
from ddaepp_jax.base.results import Results
from ddaepp_jax.probing import level as one_level
from ddaepp_jax.probing import probe as probing
from ddaepp_jax.probing.level import probe_level
from ddaepp_jax.reporting import probes
from ddaepp_jax.run import opened as opened_run

COLUMNS = ("linear_held_out", "linear_test", "knn_held_out", "knn_test")
COLUMNS += ("alignment", "uniformity", "effective_rank", "spread")


@pytest.fixture(autouse=True)
def probed(monkeypatch) -> list:
    """The levels that were probed; every accuracy is 50 %."""
    levels = []

    def probe_level(trained, settings, images, level, directory, device_bytes):
        levels.append(level)
        directory.mkdir()
        names = ["pixels"] if level is None else settings.layers
        numbers = dict.fromkeys(COLUMNS, 50.0)
        return [{"layer": name, "noise_level": level, **numbers} for name in names]

    monkeypatch.setattr(probing, "probe_level", probe_level)
    return levels


@pytest.fixture(scope="module")
def opened(plain) -> ddaepp_jax.Run:
    """The plain run, opened once. Leave it as it is."""
    return ddaepp_jax.load(plain)


@pytest.fixture
def own(opened) -> ddaepp_jax.Run:
    """The plain run for a test to change its fields and its config."""
    run = copy.copy(opened)
    run.config = copy.deepcopy(opened.config)
    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two classes of noise."""
    root = tmp_path_factory.mktemp("data") / "images"
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for number in range(20):
            file = root / split / "ab"[number % 2] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (8, 8), np.uint8)).save(file)
    return root


def of(run: ddaepp_jax.Run, data: Path) -> ddaepp_jax.Run:
    """The run with images of a folder as its data."""
    run.config.data.name = "folder"
    run.config.data.data_dir = str(data)
    return run


def probe(run: ddaepp_jax.Run, out: Path, **fields) -> dict:
    return linear_probe.probe(run, linear_probe.settings(run, levels=(11,), **fields), out)


def test_other_images_of_the_same_number_are_refused(own, folder, tmp_path, probed):
    before = probe(of(own, folder), tmp_path / "probe")
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert probe(of(own, moved), tmp_path / "probe")["rows"] == before["rows"]
    assert probed == [None, 11]
    for split in ("test", "train"):
        Image.new("L", (8, 8)).save(moved / split / "a" / "0.png")
        with expect_error(f"{tmp_path / 'probe.json'}", f"{split}_images: ", "another --out"):
            probe(of(own, moved), tmp_path / "probe")


def test_other_labels_are_refused(own, folder, tmp_path):
    probe(of(own, folder), tmp_path / "probe")
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "test" / "a" / "0.png").rename(other / "test" / "b" / "0.png")
    with expect_error(f"{tmp_path / 'probe.json'}", "test_images: "):
        probe(of(own, other), tmp_path / "probe")


def test_other_weights_of_the_same_step_are_refused(own, tmp_path):
    probe(own, tmp_path / "probe")
    own.params = jax.tree.map(lambda leaf: np.asarray(leaf) * np.float32(1.0001), own.params)
    with expect_error(f"{tmp_path / 'probe.json'}", "weights: ", "another --out"):
        probe(own, tmp_path / "probe")


def test_an_older_file_is_of_what_it_describes(own, folder, tmp_path, probed, capsys):
    """It has no fingerprints, so a line says what is taken for granted."""
    probe(of(own, folder), tmp_path / "probe")
    file = tmp_path / "probe.json"
    content = json.loads(file.read_text())
    for name in ("weights", "train_images", "test_images"):
        content["settings"].pop(name)
    file.write_text(json.dumps(content))
    fewer = shutil.copytree(folder, tmp_path / "fewer")
    (fewer / "test" / "a" / "0.png").unlink()
    with expect_error(f"{file}", "20 images of test -> 19 images of test", "another --out"):
        probe(of(own, fewer), tmp_path / "probe")
    assert "an older version" not in capsys.readouterr().out
    probe(of(own, folder), tmp_path / "probe")
    assert f"warning: {file}: an older version wrote it" in capsys.readouterr().out
    assert probed == [None, 11]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content["rows"].pop(),
        lambda content: content["rows"].append(content["rows"][0]),
        lambda content: content["seconds"].update({"21": 1.0}),
        lambda content: content["rows"][0].pop("knn_test"),
        lambda content: content.update(rows=3),
        lambda content: content.update(seconds=None),
        lambda content: content.update(rows=[3]),
        lambda content: content["rows"][1].update(linear_test=float("nan")),
        lambda content: content["rows"][1].update(linear_test="99"),
        lambda content: content["rows"][1].update(linear_held_out=None),
    ],
)
def test_rows_that_are_not_those_of_the_levels(opened, tmp_path, damage):
    content = probe(opened, tmp_path / "probe")
    damage(content)
    (tmp_path / "probe.json").write_text(json.dumps(content))
    with expect_error(f"{tmp_path / 'probe.json'}", "its rows", "another --out"):
        probe(opened, tmp_path / "probe")


def test_two_probes_at_once(opened, tmp_path):
    """The one that comes later, also with other settings, leaves the other's files alone."""
    (tmp_path / "probe-partial" / "level-11").mkdir(parents=True)
    with (
        locked(tmp_path / "probe-partial", "wait"),
        expect_error(f"{tmp_path / 'probe-partial'}", "process", "wait for it", "--out"),
    ):
        probe(opened, tmp_path / "probe", seed=3)
    assert (tmp_path / "probe-partial" / "level-11").is_dir()


def test_a_levels_features_stay_until_its_results_are_written(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(Results, "write", lambda *_: pytest.exit("killed"))
    with pytest.raises(pytest.exit.Exception, match="killed"):
        probe(opened, tmp_path / "probe")
    assert (tmp_path / "probe-partial" / "level-None").is_dir()


def test_weights_and_features_that_are_not_finite(own, tmp_path, monkeypatch):
    whole = own.params
    own.params = jax.tree.map(lambda leaf: np.full(leaf.shape, np.inf, np.float32), whole)
    with expect_error("plain, step 6", "NaN or infinite", "another --step"):
        probe(own, tmp_path / "probe")
    own.params = whole

    def store(directory, extraction, read, ids, image_shape, title):
        features = {name: np.ones((len(ids), 4), np.float32) for name in ("in_1", "mid")}
        features["mid"][1400] = np.nan
        return features, np.zeros(len(ids), np.int32)

    monkeypatch.setattr(one_level, "store", store)
    views = lambda *_: dict.fromkeys(("in_1", "mid"), np.ones((150, 4), np.float32))
    monkeypatch.setattr(one_level, "views", views)
    with monkeypatch.context() as patch:
        patch.setattr(probing, "probe_level", lambda *args: probe_level(*args))
        with expect_error("features at pixels", "4 of the 600 numbers of held_out.mid", "clean"):
            probe(own, tmp_path / "probe")


def test_the_runs_choice_stays_where_more_were_compared(plain, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(probes, "figures", lambda results: {})
    run = shutil.copytree(plain, tmp_path / "run")
    best = run / "probe" / "best.json"
    arguments = [f"--workdir={run}", "--levels=11"]
    linear_probe.main([*arguments, f"--out={tmp_path / 'elsewhere'}"])
    assert not best.exists() and ddaepp_jax.load(run).probed is None
    linear_probe.main(arguments)
    first = best.read_text()
    assert json.loads(first)["compared"] == 3
    capsys.readouterr()
    linear_probe.main([*arguments, "--layers=mid", "--epochs=7"])
    assert best.read_text() == first
    assert f"{best} keeps the choice" in capsys.readouterr().out
    linear_probe.main([f"--workdir={run}", "--levels=11,21"])
    choice = json.loads(best.read_text())
    assert choice["compared"] == 6 and ddaepp_jax.load(run).probed == choice
    # Weights that were trained anew are not described by what was chosen before.
    best.write_text(json.dumps(choice | {"weights": "0" * 16}))
    assert ddaepp_jax.load(run).probed is None
    linear_probe.main(arguments)
    assert ddaepp_jax.load(run).probed == choice
    best.write_text("{")
    linear_probe.main([*arguments, "--layers=mid", "--epochs=7"])
    assert json.loads(best.read_text())["compared"] == 1


@pytest.mark.parametrize(
    "text",
    ["", "{", "3", "{}", '{"layer": "mid", "noise_level": "low"}', '{"layer": 3, "noise_level": 1}']
    + ['{"layer": "out_9", "noise_level": 11}', '{"layer": "mid", "noise_level": 5000}'],
)
def test_a_damaged_choice(text, damaged):
    (damaged / "probe").mkdir()
    (damaged / "probe" / "best.json").write_text(text)
    with expect_error(f"{damaged / 'probe' / 'best.json'}", "remove it", "linear_probe"):
        ddaepp_jax.load(damaged).probed  # noqa: B018


@pytest.mark.parametrize("name", ["probe.json", "probe.csv", "probe-grid.png"])
def test_out_is_checked_before_the_work(name, plain, tmp_path, probed):
    (tmp_path / name).mkdir()
    with expect_error("--out", f"{tmp_path / name} is a folder", "another"):
        linear_probe.main([f"--workdir={plain}", f"--out={tmp_path / 'probe'}"])
    assert not probed


def test_few_images(own, folder, tmp_path, capsys):
    few = tmp_path / "few"
    for split in ("train", "test"):
        for name in "ab":
            (few / split / name).mkdir(parents=True)
            shutil.copy(folder / split / name / f"{'ab'.index(name)}.png", few / split / name)
    with expect_error("held_out", "0.1 of 2 images are 0", "0, by which the test split chooses"):
        probe(of(own, few), tmp_path / "probe")
    results = probe(of(own, few), tmp_path / "probe", held_out=0)
    assert results["data"]["heads trained on"] == "2 images of train"
    assert "knn: 20 is more than the 2 images there are" in capsys.readouterr().out


def test_test_images_that_are_the_training_images_are_refused(own, folder, tmp_path):
    own.config.data.eval_split = "train"
    with expect_error("data.eval_split", "1500 of the 1500", "training images"):
        probe(own, tmp_path / "probe")
    copied = shutil.copytree(folder, tmp_path / "copied")
    shutil.rmtree(copied / "test")
    shutil.copytree(copied / "train", copied / "test")
    own.config.data.eval_split = "test"
    with expect_error("data.eval_split", "'test' are those of 'train'"):
        probe(of(own, copied), tmp_path / "probe")


def test_a_name_given_twice_counts_once(opened):
    chosen = linear_probe.settings(opened, layers=("mid", "in_1", "mid"), levels=(11, 1, 11.0))
    assert (chosen.layers, chosen.levels) == (("mid", "in_1"), (11, 1))


def test_features_that_are_not_finite(opened, monkeypatch):
    nothing = {"in_1": np.full((2, 32), np.nan, np.float32)}
    monkeypatch.setattr(opened_run, "extract", lambda *_, **__: (nothing, np.zeros(2)))
    with expect_error("noise_level: 11", "64 of the 64 numbers of in_1", "another level or step"):
        opened.features(np.zeros((2, 8, 8, 1), np.uint8), 11, ["in_1"])
