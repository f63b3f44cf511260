"""The search for the bottleneck: curves of separate runs, the decision, and going on."""

import json

import jax
import numpy as np
import pytest
from helpers.run import config, train

from ddaepp_jax import config as schema
from ddaepp_jax import find_bottleneck
from ddaepp_jax.config import TINY_MODELS
from ddaepp_jax.reporting.bottleneck import figure, table
from ddaepp_jax.search import search
from ddaepp_jax.search.decision import advice, decide, score


def rows(workdir):
    return [json.loads(line) for line in (workdir / "curves.jsonl").read_text().splitlines()]


@pytest.fixture
def compilations(monkeypatch):
    """The runs whose program was compiled, as (seed, block)."""
    compiled, compile_fitting = [], search.compile_fitting

    def counted(config, learner, *args):
        compiled.append((learner.seed, learner.network.bottleneck))
        return compile_fitting(config, learner, *args)

    monkeypatch.setattr(search, "compile_fitting", counted)
    return compiled


def check_curve(made, row):
    """The curve of a candidate is that of a run of its own with its seed and bottleneck."""
    alone = made.copy_and_resolve_references()
    alone.seed, alone.model.bottleneck = row["seed"], row["bottleneck"]
    assert row["stops"] == [*range(1, made.train.steps + 1)] and row["bad_step"] is None
    np.testing.assert_allclose(row["loss"], train(alone)[2], rtol=1e-3)


# Ten steps have the tiny config's warm-up, and so the program of other tests.
SHORT = dict(train__steps=10, optimizer__schedule="constant")


@pytest.mark.parametrize(
    ("name", "candidates", "fields"),
    [
        ("uvit", ("in_1", "mid"), {"inject": "token"}),
        ("dit", ("block_1", "block_2"), {}),
        pytest.param("unet", ("in_2", "out_3"), {"dropout": 0.1}, marks=pytest.mark.slow),
    ],
)
def test_a_candidates_curve_is_that_of_a_separate_run(
    tmp_path, compilations, monkeypatch, name, candidates, fields
):
    """Of a search that has the first of two candidates already."""
    made = config(**SHORT, optimizer__weight_decay=0.0)
    made.model = getattr(schema, name)(**TINY_MODELS[name] | fields)
    first, last = candidates
    row = {"stops": [*range(1, 11)], "loss": [9.0] * 10, "bad_step": None}
    monkeypatch.setattr(search, "_read", lambda *_: {(0, first): row})
    found = search.search(made, tmp_path, seeds=(0,), candidates=(last, first))
    assert tuple(found["candidates"]) == candidates  # in the network's order
    assert found["best"] == last and compilations == [(0, last)]
    (row,) = rows(tmp_path)
    check_curve(made, row)


@pytest.mark.slow
def test_a_search_of_two_seeds(tmp_path, compilations):
    made = config(train__steps=50, optimizer__learning_rate=1e-2)
    found = search.search(made, tmp_path, steps=50, seeds=(0, 3))
    runs = [(seed, name) for seed in (0, 3) for name in ("in_1", "mid")]
    assert compilations == [(row["seed"], row["bottleneck"]) for row in rows(tmp_path)] == runs
    finals = [row["loss"][-1] for row in rows(tmp_path)]
    assert len(set(finals)) == len(finals)
    for row in rows(tmp_path)[2:]:
        check_curve(made, row)
    assert json.loads((tmp_path / "bottleneck.json").read_text()) == found
    assert found["line"] == f'config.model.bottleneck = "{found["best"]}"'
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    last = {
        row["bottleneck"]: np.mean(row["loss"][-10:]) for row in rows(tmp_path) if row["seed"] == 3
    }
    for name, loss in last.items():
        assert found["candidates"][name]["loss"]["3"] == pytest.approx(loss)

    # The same command again has nothing to do; more candidates or seeds join.
    assert search.search(made, tmp_path, steps=50, seeds=(0, 3)) == found
    assert len(compilations) == 4


def test_a_stopped_search_goes_on(tmp_path, compilations, monkeypatch, capsys):
    arguments = [
        "--config=" + schema.__file__ + ":tiny",
        "--seeds=0",
        f"--workdir={tmp_path / 'search'}",
    ]
    arguments += ["--steps=10", "--config.optimizer.schedule=constant"]
    train = search._train

    def stopped(config, seed, block, *args):
        return train(config, seed, block, *args) if block == "in_1" else pytest.fail("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(search, "_train", stopped)
        with pytest.raises(pytest.fail.Exception, match="stopped"):
            find_bottleneck.main(arguments)
    (first,) = rows(tmp_path / "search")
    with (tmp_path / "search" / "curves.jsonl").open("a") as file:
        file.write('{"bottleneck": "mid", "se')  # as a kill may leave it
    find_bottleneck.main(arguments)
    whole = rows(tmp_path / "search")
    assert whole[0] == first
    assert [(row["seed"], row["bottleneck"]) for row in whole] == [(0, "in_1"), (0, "mid")]
    assert compilations == [(0, "in_1"), (0, "mid")]
    out = capsys.readouterr().out
    assert "gap to the lowest" in out and ("paste into the config" in out or "tie: " in out)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_its_run_alone(tmp_path, monkeypatch):
    """The steps of the others go on."""
    train, seen = search._curve, []

    def curve(program, state, *args):
        if not seen:  # the first candidate alone starts at what is no number
            state = state.replace(params=jax.tree.map(lambda leaf: leaf * np.nan, state.params))
        seen.append(args)
        return train(program, state, *args)

    with monkeypatch.context() as patched:
        patched.setattr(search, "_curve", curve)
        found = search.search(config(**SHORT), tmp_path / "one", seeds=(0,))
    first, *others = rows(tmp_path / "one")
    assert (first["bad_step"], first["stops"]) == (0, [])
    assert found["candidates"][first["bottleneck"]]["mean"] is None
    assert others and all(
        row["bad_step"] is None and row["stops"] == [*range(1, 11)] for row in others
    )
    assert found["warmup_steps"] == 2


@pytest.mark.slow
def test_where_every_loss_is_not_finite_there_is_no_best(tmp_path):
    made = config(train__steps=20, optimizer__learning_rate=1e30, optimizer__clip_norm=0.0)
    made.optimizer.name = "sgd"
    found = search.search(made, tmp_path / "every", seeds=(0, 1))
    assert found["winner"] == "tie"
    assert "every candidate met a loss that is not finite" in advice(found)
    assert all(row["bad_step"] in (1, 2, 3) and row["stops"] for row in rows(tmp_path / "every"))
    assert "not finite" in table(found)


def losses(**by_block):
    return {name: dict(enumerate(values)) for name, values in by_block.items()}


def test_a_winner_is_beyond_chance():
    """Seeds differ by much more than blocks, but seed by seed the best is ahead."""
    found = decide(losses(a=[1.0, 5.0, 9.0], b=[1.3, 5.4, 9.2], c=[2.0, 6.0, 10.0]))
    assert (found["winner"], found["runner_up"], found["tied"]) == ("a", "b", [])
    assert found["gap"] == pytest.approx(0.3) and found["spread"] == pytest.approx(0.1)
    candidates = found["candidates"]
    # The margin is 4.303, Student's t for three seeds, times 0.1 / sqrt(3).
    assert candidates["b"]["margin"] == pytest.approx(0.2484, abs=1e-4)
    assert candidates["c"]["gap"] == pytest.approx(1.0) and list(candidates) == ["a", "b", "c"]
    found |= {"seeds": [0, 1, 2], "line": 'config.model.bottleneck = "a"'}
    assert found["line"] in advice(found)


@pytest.mark.parametrize(
    ("other", "winner"),
    [
        ([1.2, 5.3, 9.1], "tie"),  # beyond the spread, 0.1, but not the margin, 0.248
        ([1.00001, 5.00001, 9.00001], "tie"),  # below a thousandth of the loss
        ([1.004, 5.004, 9.004], "tie"),
        ([1.006, 5.006, 9.006], "a"),
        ([1.0, 5.0, 9.0], "tie"),
    ],
)
def test_a_small_gap_is_no_difference(other, winner):
    assert decide(losses(a=[1.0, 5.0, 9.0], b=other))["winner"] == winner


@pytest.mark.parametrize("gap", [1e-5, 1e-3])
def test_two_seeds_name_no_winner_by_a_small_gap(gap):
    assert decide(losses(a=[1.0, 5.0], b=[1.0 + gap, 5.0 + gap]))["winner"] == "tie"
    assert decide(losses(a=[1.0, 5.0], b=[1.0 + gap, 5.0 + 2 * gap]))["winner"] == "tie"


def test_chance_names_a_winner_of_two_equal_blocks_in_one_search_of_twenty():
    random = np.random.default_rng(0)
    named = [
        decide(losses(a=1 + random.normal(size=3), b=1 + random.normal(size=3)))["winner"] != "tie"
        for _ in range(2000)
    ]
    assert 0.03 < np.mean(named) < 0.07


def test_ties_are_listed():
    found = decide(losses(a=[1.0, 5.0], b=[1.4, 5.0], c=[2.0, 6.02]))
    assert (found["winner"], found["best"], found["tied"]) == ("tie", "a", ["b"])
    assert "tie: no difference seen between a, b; keep the config's own" in advice(
        found | {"seeds": [0, 1]}
    )
    assert "ties with it" in table(found)
    # A third block that may be as good is a tie too, though the second is not.
    assert decide(losses(a=[1.0, 5.0], b=[1.4, 5.4], c=[0.9, 7.0]))["tied"] == ["c"]


def test_one_seed_is_always_a_tie():
    found = decide(losses(a=[1.0], b=[9.0]))
    assert (found["winner"], found["best"], found["spread"]) == ("tie", "a", None)
    assert "one seed has no spread" in advice(found | {"seeds": [0]})


def test_what_is_not_finite_loses():
    inf = float("inf")
    found = decide(losses(a=[0.1, inf], b=[1.0, 5.0], c=[2.0, 6.02]))
    assert (found["winner"], found["runner_up"]) == ("b", "c")
    assert found["candidates"]["a"] == {
        "loss": {"0": 0.1, "1": None},
        "mean": None,
        "gap": None,
        "spread": None,
        "margin": None,
    }
    json.dumps(found, allow_nan=False)
    assert decide(losses(a=[inf, inf], b=[1.0, 5.0]))["winner"] == "b"


def test_a_score_is_the_mean_of_the_last_fifth():
    row = {"stops": [4, 8, 9, 10], "loss": [9.0, 9.0, 1.0, 2.0], "bad_step": None}
    assert score(row, 10) == pytest.approx(1.5)
    assert score({"stops": [1, 2], "loss": [3.0, 2.0], "bad_step": None}, 2) == 2.0
    assert score(row | {"bad_step": 10}, 11) == float("inf")


@pytest.mark.parametrize("blocks", [3, 12])
def test_figure_of_curves(blocks):
    stops, random = list(range(10, 1001, 10)), np.random.default_rng(0)
    curves = {
        f"block_{i + 1}": {
            seed: {
                "stops": stops,
                "loss": (np.exp(-np.array(stops) / 300) + 0.1 + 0.01 * random.random(100)).tolist(),
            }
            | {"bad_step": None}
            for seed in range(3)
        }
        for i in range(blocks)
    }
    curves["block_2"][1] = {"stops": [10], "loss": [1.0], "bad_step": 17}
    found = decide(
        {name: {seed: score(row, 1000) for seed, row in by.items()} for name, by in curves.items()}
    )
    made = figure(curves, found)
    assert len(made.axes) == 3 and len(made.axes[0].lines) == blocks - 1
    assert [text.get_text() for text in made.axes[2].get_xticklabels()] == list(curves)
