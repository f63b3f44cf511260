"""Snapshots of a run: which there are, also after a kill, and the averages that are opened from them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from refusals import TINY, check_refused
from tiny import compiled, config

from ddaepp_jax import linear_probe, load, main, sample
from ddaepp_jax.evaluation import placing
from ddaepp_jax.training import ema, sharding
from ddaepp_jax.training.checkpoint import restore_networks, steps_of

FIELDS = dict(
    train__steps=32,
    train__steps_per_dispatch=8,
    train__checkpoint_every=12,
    optimizer__name="sgd",
    optimizer__schedule="constant",
    optimizer__learning_rate=0.1,
    ema__sigma_rel=(0.05, 0.07, 0.1),
    ema__snapshot_every=3,
    **{f"evals__{name}__every": 0 for name in ("heldout_loss", "samples", "probe", "knn")},
)
STEPS = [*range(3, 32, 3), 32]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that tracks three averages and keeps snapshots of all."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    main.train_and_evaluate(config(**FIELDS), workdir)
    return workdir


def arrays(workdir, step, names=FIELDS["ema__sigma_rel"]):
    everywhere = placing.whole(load(workdir).mesh)
    found = restore_networks(workdir / "snapshots", step, [ema.power_name(name) for name in names], everywhere)
    return list(found.values())


def check_equal(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), one, other)


def distance(one, other):
    return np.sqrt(sum(jax.tree.leaves(jax.tree.map(lambda a, b: float(np.square(a - b).sum()), one, other))))


def test_all_stay_and_hold_the_networks_averages(whole):
    assert steps_of(whole / "snapshots") == STEPS and steps_of(whole / "checkpoints") == [24, 32]
    state = load(whole, step=24).state()
    assert sorted(state.ema) == ["0.999", "sigma_rel0.05", "sigma_rel0.07", "sigma_rel0.1"]
    check_equal(arrays(whole, 24), [state.ema[ema.power_name(w)]["network"] for w in FIELDS["ema__sigma_rel"]])
    saved = next((whole / "snapshots" / "24" / "ema").glob("_METADATA"))
    assert "'network'" in saved.read_text() and "'objectives'" not in saved.read_text()


def test_the_averages_are_those_of_the_parameters():
    """Against a sum in float64 over the parameters of every step; so are the objectives' heads averaged."""
    made = config(**FIELDS | dict(train__steps=6))
    program, source, mesh = compiled(made)
    state, params = program.init(), []
    for stop, data in zip(range(1, 7), source.open(0, 6), strict=False):
        limit = sharding.put(np.int32(stop), sharding.replicated(mesh))
        state, _, _ = program.run(state, program.zeros(), data, limit)
        params.append(jax.device_get(state.params))
    for width in made.ema.sigma_rel:
        power = ema.exponent(width) + 1
        weights = np.diff(np.arange(7) ** power) / 6**power
        expected = jax.tree.map(lambda *p, w=weights: np.tensordot(w, np.stack(p).astype(np.float64), 1), *params)
        found = state.ema[ema.power_name(width)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-7), found, expected)


def test_a_tracked_average_is_opened_as_it_is(whole):
    run = load(whole, sigma_rel=0.07)
    assert (run.step, run.decay, run.sigma_rel, run.profile_error) == (32, None, 0.07, 0.0)
    assert run.average == "sigma_rel0.07" and load(whole).average == "ema0.999"
    check_equal(run.params, run.state().ema["sigma_rel0.07"]["network"])


def test_another_average_is_made_from_snapshots(whole, tmp_path):
    """Of a run without 0.07 among its averages, against the run that tracks it, at the same step and before."""
    copy = shutil.copytree(whole, tmp_path / "run")
    written = json.loads((copy / "config.json").read_text())
    written["ema"]["sigma_rel"] = [0.05, 0.1]
    (copy / "config.json").write_text(json.dumps(written))
    made, tracked = load(copy, sigma_rel=0.07), load(whole, sigma_rel=0.07)
    assert made.step == 32 and 0 < made.profile_error < 0.01
    last = load(whole).state().params["network"]
    assert distance(made.params, tracked.params) < 0.01 * distance(tracked.params, last)
    assert distance(load(copy, sigma_rel=0.05).params, tracked.params) > 0.1 * distance(tracked.params, last)
    early = load(copy, step=25, sigma_rel=0.07)  # no checkpoint is there, nor a snapshot; the one before is
    assert early.step == 24
    (exact,) = arrays(whole, 24, (0.07,))
    assert distance(early.params, exact) < 0.01 * distance(exact, load(whole, step=24).state().params["network"])


def test_making_a_tracked_average_gives_it_back(whole):
    """To float32 rounding: step 27 has a snapshot and no checkpoint."""
    run = load(whole, step=27, sigma_rel=0.05)
    assert run.step == 27 and run.profile_error < 1e-5
    (exact,) = arrays(whole, 27, (0.05,))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), run.params, exact)
    check_refused(lambda _: run.state(), [], "step: no checkpoint 27 in", "averages alone were saved there")


def test_devices_change_no_bit_of_what_is_made(whole, monkeypatch):
    eight = load(whole, sigma_rel=0.06)
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: first)
    one = load(whole, sigma_rel=0.06)
    assert eight.mesh.size == 8 and one.mesh.size == 1
    check_equal(eight.params, one.params)
    images = [run.sample(n=8, steps=3) for run in (one, eight)]
    assert images[0].shape == (8, 8, 8, 1)
    assert np.abs(images[0].astype(int) - images[1]).max() <= 1


@pytest.mark.slow
def test_sharded_averages_are_the_same(whole, tmp_path):
    """Saved in parts by FSDP, opened whole; equal to rounding."""
    main.train_and_evaluate(config(**FIELDS | dict(mesh__data=2, mesh__fsdp=4, train__steps=3)), tmp_path / "run")
    assert steps_of(tmp_path / "run" / "snapshots") == [3]
    for one, other in zip(arrays(tmp_path / "run", 3), arrays(whole, 3), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), one, other)


@pytest.mark.slow
def test_resumed_run_has_the_snapshots_of_the_whole(whole, tmp_path, capsys):
    """From step 24: what is past it is made again, and what was lost on the way; bit for bit."""
    copy = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(copy / "checkpoints" / "32")
    shutil.rmtree(copy / "snapshots" / "24")  # the checkpoint's own: the run was stopped between the two
    shutil.rmtree(copy / "snapshots" / "27")
    written = {step: (copy / "snapshots" / str(step)).stat().st_mtime_ns for step in STEPS[:7]}
    main.train_and_evaluate(config(**FIELDS), copy)
    assert "resumed at step 24" in capsys.readouterr().out
    assert steps_of(copy / "snapshots") == STEPS
    assert written == {step: (copy / "snapshots" / str(step)).stat().st_mtime_ns for step in STEPS[:7]}
    for step in (24, 27, 30, 32):
        check_equal(arrays(copy, step), arrays(whole, step))


@pytest.mark.slow
def test_snapshots_may_come_at_other_steps_from_now_on(whole, tmp_path):
    """They move no number, and each says what it is of."""
    copy = shutil.copytree(whole, tmp_path / "run")
    main.train_and_evaluate(config(**FIELDS | dict(train__steps=40, ema__snapshot_every=4)), copy)
    assert steps_of(copy / "snapshots") == [*STEPS, 36, 40]
    assert 0 < load(copy, sigma_rel=0.06).profile_error < 0.01


def test_size_is_told_once(tmp_path, capsys):
    main.train_and_evaluate(config(**FIELDS), tmp_path / "run", dry_run=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("snapshots:")]
    assert len(lines) == 1 and lines[0].startswith("snapshots: 11 of ") and "MiB in all" in lines[0]


def test_no_snapshots_without_the_field(tmp_path):
    fields = FIELDS | dict(train__steps=3, ema__snapshot_every=0)
    main.train_and_evaluate(config(**fields), tmp_path / "run")
    assert not (tmp_path / "run" / "snapshots").exists()
    assert load(tmp_path / "run", sigma_rel=0.05).step == 3
    check_refused(
        lambda _: load(tmp_path / "run", sigma_rel=0.06),
        [],
        "sigma_rel: no average 0.06",
        "no snapshot at or before step 3",
    )


@pytest.mark.slow
def test_sample_and_probe_take_a_width(whole):
    sample.main([f"--workdir={whole}", "--sigma_rel=0.06", "--n=4", "--steps=2"])
    assert (whole / "samples" / "step32_seed0_sigma_rel0.06.npz").is_file()
    arguments = [f"--workdir={whole}", "--sigma_rel=0.06", "--layers=mid", "--levels=11", "--epochs=1", "--knn=0"]
    linear_probe.main(arguments)
    found = json.loads((whole / "probe" / "step32-sigma_rel0.06-cached-1ep.json").read_text())
    assert found["settings"]["sigma_rel"] == 0.06 and found["settings"]["decay"] is None


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--sigma_rel=wide"], ["argument --sigma_rel: invalid float value: 'wide'"]),
        (["--sigma_rel=0.005"], ["sigma_rel: 0.005 at step 32 is out of reach of 11 snapshots", "would be off by"]),
        (["--sigma_rel=0.06", "--step=2"], ["sigma_rel: no average 0.06, and no snapshot at or before step 2"]),
        (["--sigma_rel=0.05", "--step=2"], ["sigma_rel: no average 0.05, and no snapshot at or before step 2"]),
    ],
)
def test_bad_widths(arguments, parts, whole):
    check_refused(sample.main, [f"--workdir={whole}", *arguments], *parts)


def test_a_damaged_snapshot(whole, tmp_path):
    copy = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(copy / "snapshots" / "12" / "ema")
    check_refused(
        sample.main, [f"--workdir={copy}", "--sigma_rel=0.06"], str(copy / "snapshots" / "12"), "not a readable"
    )


@pytest.mark.slow
def test_killed_run_ends_with_the_same_snapshots(tmp_path):
    """SIGKILL somewhere, the same command again."""
    root, fields = Path(__file__).parents[2], FIELDS | dict(train__steps=30)
    flags = [f"--config.{name.replace('__', '.')}={value}" for name, value in fields.items()]
    command = [sys.executable, "-m", "ddaepp_jax.main", TINY, *flags]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    subprocess.run([*command, f"--workdir={tmp_path / 'whole'}"], cwd=root, env=environment, check=True)
    killed = tmp_path / "killed"
    process = subprocess.Popen([*command, f"--workdir={killed}"], cwd=root, env=environment)
    deadline = time.monotonic() + 120
    while not (killed / "checkpoints" / "12").is_dir():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    subprocess.run([*command, f"--workdir={killed}"], cwd=root, env=environment, check=True)
    steps = steps_of(tmp_path / "whole" / "snapshots")
    assert steps == steps_of(killed / "snapshots") == [*range(3, 31, 3)]
    for step in steps:
        check_equal(arrays(killed, step), arrays(tmp_path / "whole", step))
