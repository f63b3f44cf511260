"""Bad arguments, configs and directories of the search for the bottleneck; nothing is trained."""

import json

import pytest
from helpers.errors import TINY, expect_error

from ddaepp_jax import find_bottleneck
from ddaepp_jax.search import search


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    monkeypatch.setattr(search, "compile_program", lambda *_: pytest.fail("compiled"))


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
    monkeypatch.setattr(search, "_read", lambda file: dict.fromkeys(runs, row))
    arguments = [TINY, f"--workdir={tmp_path}", "--seeds=0,1"]
    find_bottleneck.main(arguments)
    find_bottleneck.main(
        [*arguments, "--config.model.bottleneck=in_1", "--config.seed=7", "--steps=500"]
    )
    file = tmp_path / "short_run.json"
    with expect_error(f"{file}", "train.steps: 4 -> 3", "model.width: 32 -> 64", "--workdir"):
        find_bottleneck.main([*arguments, "--steps=3", "--config.model.width=64"])
    assert json.loads(file.read_text())["train"]["steps"] == 4


@pytest.mark.parametrize("text", ["{}\n", "no json\n", "3\n"])
def test_damaged_curves(tmp_path, text, monkeypatch):
    (tmp_path / "curves.jsonl").write_text(text)
    monkeypatch.setattr(search.saved, "claim", lambda *_: None)
    with expect_error(f"{tmp_path / 'curves.jsonl'}", "--workdir"):
        find_bottleneck.main([TINY, f"--workdir={tmp_path}"])
