"""Snapshots of a run: which ones it keeps, also after a stop, and the averages that are opened from
them.
"""

import json
import shutil

import jax
import numpy as np
import pytest
from helpers.errors import expect_error
from helpers.run import CONDITIONAL, compiled, config, snapshots

from ddaepp_jax import linear_probe, load, sample
from ddaepp_jax.base import parallel
from ddaepp_jax.run.train import train_and_evaluate
from ddaepp_jax.training import ema
from ddaepp_jax.training.checkpoint import steps_of

WIDTHS = CONDITIONAL["ema__sigma_rel"]
STEPS = [*range(3, 32, 3), 32]


def check_equal(one, other):
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), one, other
    )


def distance(one, other):
    return np.sqrt(
        sum(jax.tree.leaves(jax.tree.map(lambda a, b: float(np.square(a - b).sum()), one, other)))
    )


def test_all_stay_and_hold_the_networks_averages(conditional):
    assert steps_of(conditional / "snapshots") == STEPS and steps_of(
        conditional / "checkpoints"
    ) == [24, 32]
    state = load(conditional, step=24).state()
    assert sorted(state.ema) == ["0.5", "0.9", "sigma_rel0.05", "sigma_rel0.07", "sigma_rel0.1"]
    check_equal(
        snapshots(conditional, 24), [state.ema[ema.power_name(w)]["network"] for w in WIDTHS]
    )
    saved = next((conditional / "snapshots" / "24" / "ema").glob("_METADATA"))
    assert "'network'" in saved.read_text() and "'objectives'" not in saved.read_text()


def test_the_averages_are_those_of_the_parameters():
    """Against a sum in float64 over the parameters of every step; so are the objectives' heads
    averaged.
    """
    made = config(**CONDITIONAL | dict(train__steps=6))
    program, source, mesh = compiled(made)
    state, params = program.init(), []
    for stop, data in zip(range(1, 7), source.open(0, 6), strict=False):
        limit = parallel.put(np.int32(stop), parallel.replicated(mesh))
        state, _, _ = program.run(state, program.zeros(), data, limit)
        params.append(jax.device_get(state.params))
    for width in made.ema.sigma_rel:
        power = ema.exponent(width) + 1
        weights = np.diff(np.arange(7) ** power) / 6**power
        expected = jax.tree.map(
            lambda *p, w=weights: np.tensordot(w, np.stack(p).astype(np.float64), 1), *params
        )
        found = state.ema[ema.power_name(width)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-7), found, expected)


def test_a_tracked_average_is_opened_as_it_is(conditional):
    run = load(conditional, sigma_rel=0.07)
    assert (run.step, run.decay, run.sigma_rel, run.profile_error) == (32, None, 0.07, 0.0)
    assert run.average == "sigma_rel0.07" and load(conditional).average == "ema0.9"
    check_equal(run.params, run.state().ema["sigma_rel0.07"]["network"])


def test_another_average_is_made_from_snapshots(conditional, tmp_path):
    """Of a run without 0.07 among its averages, against the run that tracks it, at the same step
    and before.
    """
    copy = shutil.copytree(conditional, tmp_path / "run")
    written = json.loads((copy / "config.json").read_text())
    written["ema"]["sigma_rel"] = [0.05, 0.1]
    (copy / "config.json").write_text(json.dumps(written))
    made, tracked = load(copy, sigma_rel=0.07), load(conditional, sigma_rel=0.07)
    assert made.step == 32 and 0 < made.profile_error < 0.01
    last = load(conditional).state().params["network"]
    assert distance(made.params, tracked.params) < 0.01 * distance(tracked.params, last)
    assert distance(load(copy, sigma_rel=0.05).params, tracked.params) > 0.1 * distance(
        tracked.params, last
    )
    early = load(
        copy, step=25, sigma_rel=0.07
    )  # no checkpoint is there, nor a snapshot; the one before is
    assert early.step == 24
    (exact,) = snapshots(conditional, 24, (0.07,))
    assert distance(early.params, exact) < 0.01 * distance(
        exact, load(conditional, step=24).state().params["network"]
    )


def test_making_a_tracked_average_gives_it_back(conditional):
    """To float32 rounding: step 27 has a snapshot and no checkpoint."""
    run = load(conditional, step=27, sigma_rel=0.05)
    assert run.step == 27 and run.profile_error < 1e-5
    (exact,) = snapshots(conditional, 27, (0.05,))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), run.params, exact)
    with expect_error("step", "27"):
        run.state()


@pytest.mark.slow
def test_resumed_run_has_the_snapshots_of_the_whole(conditional, tmp_path, capsys):
    """From step 24: what is past it is made again, and what was lost on the way; bit for bit."""
    copy = shutil.copytree(conditional, tmp_path / "run")
    shutil.rmtree(copy / "checkpoints" / "32")
    shutil.rmtree(
        copy / "snapshots" / "24"
    )  # the checkpoint's own: the run was stopped between the two
    shutil.rmtree(copy / "snapshots" / "27")
    written = {step: (copy / "snapshots" / str(step)).stat().st_mtime_ns for step in STEPS[:7]}
    train_and_evaluate(config(**CONDITIONAL), copy)
    assert "resumed at step 24" in capsys.readouterr().out
    assert steps_of(copy / "snapshots") == STEPS
    assert written == {
        step: (copy / "snapshots" / str(step)).stat().st_mtime_ns for step in STEPS[:7]
    }
    for step in (24, 27, 30, 32):
        check_equal(snapshots(copy, step), snapshots(conditional, step))


@pytest.mark.slow
def test_snapshots_may_come_at_other_steps_from_now_on(conditional, tmp_path):
    """They move no number, and each says what it is of."""
    copy = shutil.copytree(conditional, tmp_path / "run")
    train_and_evaluate(config(**CONDITIONAL | dict(train__steps=40, ema__snapshot_every=4)), copy)
    assert steps_of(copy / "snapshots") == [*STEPS, 36, 40]
    assert 0 < load(copy, sigma_rel=0.06).profile_error < 0.01


def test_size_is_told_once(tmp_path, capsys):
    train_and_evaluate(config(**CONDITIONAL), tmp_path / "run", dry_run=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("snapshots:")]
    assert len(lines) == 1 and lines[0].startswith("snapshots: 11 of ") and "MiB in all" in lines[0]


def test_no_snapshots_without_the_field(tmp_path):
    fields = CONDITIONAL | dict(train__steps=3, ema__snapshot_every=0)
    train_and_evaluate(config(**fields), tmp_path / "run")
    assert not (tmp_path / "run" / "snapshots").exists()
    assert load(tmp_path / "run", sigma_rel=0.05).step == 3
    with expect_error("sigma_rel", "0.06", "step 3"):
        load(tmp_path / "run", sigma_rel=0.06)


@pytest.mark.slow
def test_sample_and_probe_take_a_width(conditional, tmp_path):
    copy = shutil.copytree(conditional, tmp_path / "run")
    sample.main([f"--workdir={copy}", "--sigma_rel=0.06", "--n=4", "--steps=2"])
    assert (copy / "samples" / "step32-sigma_rel0.06-ddpm2-n4-seed0.npz").is_file()
    arguments = [
        f"--workdir={copy}",
        "--sigma_rel=0.06",
        "--layers=mid",
        "--levels=11",
        "--epochs=1",
        "--knn=0",
    ]
    linear_probe.main(arguments)
    found = json.loads((copy / "probe" / "step32-sigma_rel0.06-cached-1ep.json").read_text())
    assert found["settings"]["sigma_rel"] == 0.06 and found["settings"]["decay"] is None


@pytest.mark.parametrize(
    ("chosen", "keywords"),
    [
        (dict(sigma_rel=0.005), ["0.005", "11 snapshots"]),
        (dict(sigma_rel=0.06, step=2), ["0.06", "step 2"]),
        (dict(sigma_rel=0.05, step=2), ["0.05", "step 2"]),
    ],
)
def test_widths_that_cannot_be_had(chosen, keywords, conditional):
    with expect_error("sigma_rel", *keywords):
        load(conditional, **chosen)


def test_a_damaged_snapshot(conditional, tmp_path):
    copy = shutil.copytree(conditional, tmp_path / "run")
    shutil.rmtree(copy / "snapshots" / "12" / "ema")
    with expect_error(str(copy / "snapshots" / "12")):
        load(copy, sigma_rel=0.06)
