"""Bad arguments, configs and directories of the search for the bottleneck; nothing is trained."""

import json

import pytest
from helpers.errors import TINY, expect_error

from ddaepp_jax import find_bottleneck
from ddaepp_jax.base.lock import locked
from ddaepp_jax.search import search


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    monkeypatch.setattr(search, "compile_fitting", lambda *_: pytest.fail("compiled"))


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        (["--steps=0"], "--steps", ["0", "positive"]),
        (["--steps=many"], "argument --steps", ["'many'"]),
        (["--seeds=1,1"], "--seeds", ["1,1", "different"]),
        (["--seeds=-1,1"], "--seeds", ["-1,1", "2**32"]),
        (["--candidates=in_1,out_1"], "--candidates", ["'out_1'", "in_1", "mid"]),
        (["--candidates=mid"], "--candidates", ["mid", "compared"]),
        (["--config.model.self_condition=False"], "model.self_condition", ["True"]),
        (
            ["--config.objectives.denoising.weight=0", "--config.objectives.distillation.weight=1"],
            "objectives.denoising.weight",
            ["0", "compared"],
        ),
        (["--config.model.bottlenecks=mid"], "--config.model.bottlenecks", [" model.bottleneck"]),
        (["--config.init_from=nowhere"], "init_from", ["nowhere", "config.json"]),
        (["--dry_run"], "--dry_run", ["--help"]),
    ],
)
def test_bad_argument(arguments, field, words, tmp_path):
    with expect_error(field, *words):
        find_bottleneck.main([TINY, f"--workdir={tmp_path / 'search'}", *arguments])
    assert not (tmp_path / "search").exists()


def test_bad_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    with expect_error("--workdir", "Not a directory", "another"):
        find_bottleneck.main([TINY, f"--workdir={tmp_path / 'file' / 'search'}"])
    with expect_error("--workdir", f"{tmp_path}", "not empty", "another"):
        find_bottleneck.main([TINY, f"--workdir={tmp_path}"])


def test_another_search_is_there(tmp_path, monkeypatch):
    """Seeds, candidates and the config's own bottleneck may differ, but nothing that moves a
    number.
    """
    row = {"stops": [1, 2, 3, 4], "loss": [1.0] * 4, "bad_step": None}
    runs = [(seed, name) for seed in (0, 1) for name in ("in_1", "mid")]
    monkeypatch.setattr(search, "_read", lambda *_: dict.fromkeys(runs, row))
    arguments = [TINY, f"--workdir={tmp_path}", "--seeds=0,1"]
    find_bottleneck.main(arguments)
    find_bottleneck.main(
        [*arguments, "--config.model.bottleneck=in_1", "--config.seed=7", "--steps=500"]
    )
    file = tmp_path / "short_run.json"
    with expect_error(f"{file}", "train.steps: 4 -> 3", "model.width: 32 -> 64", "--workdir"):
        find_bottleneck.main([*arguments, "--steps=3", "--config.model.width=64"])
    stored = json.loads(file.read_text())
    assert (stored["train"]["steps"], stored["seed"]) == (4, 0)
    assert stored["model"]["bottleneck"] == "mid"


CURVE = {
    "bottleneck": "in_1",
    "seed": 0,
    "stops": [1, 2, 3, 4],
    "loss": [1.0] * 4,
    "bad_step": None,
}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{}", ["line 2", "remove the line"]),
        ("no json", ["line 2"]),
        ("3", ["line 2"]),
        (json.dumps(CURVE | {"loss": [1.0]}), ["line 2"]),
        (json.dumps(CURVE | {"stops": []}), ["line 2"]),
        ("\0\xff", ["line 2"]),
        (json.dumps(CURVE | {"images": "0" * 16}), ["other images"]),
    ],
)
def test_damaged_and_other_curves(tmp_path, row, words, monkeypatch):
    (tmp_path / "curves.jsonl").write_text(f"{json.dumps(CURVE)}\n{row}\n")
    monkeypatch.setattr(search.saved, "claim", lambda *_: None)
    with expect_error(f"{tmp_path / 'curves.jsonl'}", *words, "--workdir"):
        find_bottleneck.main([TINY, f"--workdir={tmp_path}"])


def test_a_damaged_config_of_a_search(tmp_path):
    (tmp_path / "short_run.json").write_text("{")
    with expect_error(f"{tmp_path / 'short_run.json'}", "use another --workdir"):
        find_bottleneck.main([TINY, f"--workdir={tmp_path}"])


def test_two_searches_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(search.saved, "claim", lambda *_: None)
    with locked(tmp_path, "wait"), expect_error(f"{tmp_path}", "process", "another --workdir"):
        find_bottleneck.main([TINY, f"--workdir={tmp_path}"])


def test_a_config_that_is_shorter_than_steps_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(search.saved, "claim", lambda *_: pytest.exit("claimed"))
    with pytest.raises(pytest.exit.Exception, match="claimed"):
        find_bottleneck.main([TINY, f"--workdir={tmp_path}", "--steps=5"])
    assert "--steps: the config's own run has 4 steps" in capsys.readouterr().out
