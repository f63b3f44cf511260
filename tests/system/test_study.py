"""The study runner: equal budgets, a table with spread, and going on where it stopped."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import study

    yield study
    sys.modules.pop("study")


def row(variant, seed, linear, steps=100, budgets=("steps", "compute")):
    made = {"variant": variant, "seed": seed, "steps": steps, "budgets": list(budgets)}
    made |= {
        "train_loss": 0.5,
        "heldout_loss": 0.25 + seed / 100,
        "linear_test": linear,
        "knn_test": 30.0,
    }
    return made | {"pixels_linear_test": 41.0, "pixels_knn_test": 35.0}


def test_table_has_means_spreads_and_paired_differences(study):
    rows = [row("plain", seed, linear) for seed, linear in ((0, 40.0), (1, 44.0))]
    rows += [
        row("more", seed, linear, budgets=("steps",)) for seed, linear in ((1, 46.0), (0, 41.0))
    ]
    rows += [row("more", seed, 39.0, steps=50, budgets=("compute",)) for seed in (0, 1)]
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in study.table(rows).splitlines()
    ]
    assert lines[0][:4] == ["budget", "variant", "seeds", "steps"] and lines[0][-2:] == [
        "linear, %",
        "kNN, %",
    ]
    deviation = lambda *values: f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
    assert lines[2][:4] == ["equal steps", "plain", "2", "100"] and lines[2][6] == deviation(40, 44)
    assert lines[3][:2] == ["equal steps", "more"] and lines[3][5:7] == [
        "0.2550 ± 0.0071",
        deviation(41, 46),
    ]
    assert lines[4][1] == "more - plain" and lines[4][6] == deviation(1, 2)  # seed by seed
    assert lines[6][:4] == ["equal compute", "more", "2", "50"] and lines[7][6] == deviation(-1, -5)
    assert lines[8][1] == "raw pixels" and lines[8][6:] == ["41.00", "35.00"]
    drawn = study.plot(rows).axes
    assert [drawn[i].get_ylabel() for i in (0, 4)] == ["equal steps", "equal compute"] and len(
        drawn
    ) == 8
    assert [list(line.get_ydata()) for line in drawn[2].lines[:2]] == [
        [40, 41],
        [44, 46],
    ]  # of each seed


def test_the_frechet_distance_is_a_column_where_it_was_measured(study):
    rows = [row("plain", 0, 40.0) | {"frechet": 7.0}, row("more", 0, 41.0) | {"frechet": 6.5}]
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in study.table(rows).splitlines()
    ]
    assert (
        lines[0][-1] == "Frechet distance"
        and float(lines[2][-1]) == 7
        and float(lines[4][-1]) == -0.5
    )
    assert len(study.plot(rows).axes) == 5


@pytest.mark.slow
def test_study_trains_probes_and_resumes(study, tmp_path, monkeypatch):
    arguments = ["--name=tiny", "--config=configs/uvit_digits.py:tiny", "--seeds=0", "--levels=11"]
    arguments += ["--layers=mid,out_1"]
    arguments += ["--variant=plain:model.self_condition=False", "--variant=deep:model.depth=4"]
    arguments += [
        f"--workdir={tmp_path / 'runs'}",
        f"--out={tmp_path / 'results'}",
        "--config.probe.epochs=2",
    ]
    arguments += [
        f"--config.evals.{name}.every=0" for name in ("samples", "probe", "knn", "features")
    ]
    monkeypatch.chdir(BENCHMARKS.parent)
    study.program(arguments)
    rows = [
        json.loads(line)
        for line in (tmp_path / "results" / "tiny" / "runs.jsonl").read_text().splitlines()
    ]
    # The deeper network costs more: it gets as many steps, and once more fewer.
    assert [(r["variant"], r["seed"]) for r in rows] == [("plain", 0), ("deep", 0), ("deep", 0)]
    assert rows[1]["steps"] == rows[0]["steps"] == 4 > rows[2]["steps"] and rows[2]["budgets"] == [
        "compute"
    ]
    assert rows[0]["linear_test"] != rows[1]["linear_test"]
    assert "data_dir" not in json.dumps(rows) and rows[0]["protocol"] == "cached-2ep"
    assert len(list((tmp_path / "results" / "tiny" / "logs").iterdir())) == 6
    monkeypatch.setattr(study, "run_one", lambda *_, **__: pytest.fail("ran again"))
    study.program(arguments)
    assert (tmp_path / "results" / "tiny" / "plot.png").stat().st_size > 5000
    # Another study takes its runs from there, whatever it calls them; where the probed differ, it
    # doesn't.
    other = [text for text in arguments if not text.startswith(("--name", "--variant"))]
    other += [
        "--name=other",
        "--variant=flat:model.self_condition=False",
        "--variant=deeper:model.depth=4",
    ]
    study.program([*other, "--budgets", "steps"])
    taken = study.read_rows(tmp_path / "results" / "other" / "runs.jsonl")
    assert taken == [
        made | {"variant": name, "budgets": ["steps"]}
        for made, name in zip(rows[:2], ("flat", "deeper"), strict=True)
    ]
    with pytest.raises(pytest.fail.Exception, match="ran again"):
        study.program([*other, "--name=third", "--levels=21"])
