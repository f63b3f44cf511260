"""Bad arguments, configs and directories of the search for the bottleneck; nothing is trained."""

import json

import pytest
from helpers.errors import TINY, check_refused

from ddaepp_jax import find_bottleneck


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    monkeypatch.setattr(find_bottleneck, "compile_program", lambda *_: pytest.fail("compiled"))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--steps=0"], ["--steps: 0 is not positive"]),
        (["--steps=many"], ["argument --steps: invalid int value: 'many'"]),
        (["--seeds=1,1"], ["--seeds: 1,1 are not different numbers in 0..2**32-1"]),
        (["--seeds=-1,1"], ["--seeds: -1,1 are not different numbers"]),
        (
            ["--candidates=in_1,out_1"],
            ["--candidates: of blocks that something follows", "no 'out_1'; there is in_1, mid"],
        ),
        (["--candidates=mid"], ["--candidates: mid alone has nothing to be compared with; give more"]),
        (["--config.model.self_condition=False"], ["model.self_condition: False", "set it to True"]),
        (
            ["--config.objectives.denoising.weight=0", "--config.objectives.distillation.weight=1"],
            ["objectives.denoising.weight: 0, and candidates are compared by its loss; set it to 1"],
        ),
        (["--config.model.inject=token"], ["model.inject: ", "search with model.inject=add"]),
        (["--config.model.bottlenecks=mid"], ["--config.model.bottlenecks: no such field; did you mean"]),
        (["--config.init_from=nowhere"], ["init_from: ", "nowhere"]),
        (["--dry_run"], ["--dry_run: not an argument of this program; see --help"]),
    ],
)
def test_bad_argument(arguments, parts, tmp_path):
    check_refused(find_bottleneck.main, [TINY, f"--workdir={tmp_path / 'search'}", *arguments], *parts)
    assert not (tmp_path / "search").exists()


def test_bad_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    within = f"--workdir={tmp_path / 'file' / 'search'}"
    check_refused(find_bottleneck.main, [TINY, within], "--workdir: cannot write", "(Not a directory)", "use another")
    check_refused(
        find_bottleneck.main, [TINY, f"--workdir={tmp_path}"], "is not empty and holds no search; use another"
    )


def test_another_search_is_there(tmp_path, monkeypatch):
    """Seeds, candidates and the config's own bottleneck may differ, nothing that moves a number."""
    row = {"stops": [1, 2, 3, 4], "loss": [1.0] * 4, "bad_step": None}
    rows = [{"bottleneck": name, "seed": seed, **row} for name in ("in_1", "mid") for seed in (0, 1)]
    monkeypatch.setattr(find_bottleneck, "_train", lambda *_: [])
    monkeypatch.setattr(find_bottleneck, "_done", lambda file: {(row["seed"], row["bottleneck"]): row for row in rows})
    arguments = [TINY, f"--workdir={tmp_path}", "--seeds=0,1"]
    find_bottleneck.main(arguments)
    find_bottleneck.main([*arguments, "--config.model.bottleneck=in_1", "--config.seed=7", "--steps=500"])
    line = (
        "short_run.json: a search by another config (train.steps: 4 -> 3; model.width: 32 -> 64); use another --workdir"
    )
    check_refused(find_bottleneck.main, [*arguments, "--steps=3", "--config.model.width=64"], line)
    assert json.loads((tmp_path / "short_run.json").read_text())["train"]["steps"] == 4


@pytest.mark.parametrize("text", ["{}\n", "no json\n", "3\n"])
def test_damaged_curves(tmp_path, text, monkeypatch):
    (tmp_path / "curves.jsonl").write_text(text)
    monkeypatch.setattr(find_bottleneck, "_claim", lambda *_: None)
    check_refused(
        find_bottleneck.main, [TINY, f"--workdir={tmp_path}"], "curves.jsonl: not the curves of a search; remove it"
    )
