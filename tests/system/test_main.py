"""A whole run: what it writes, that it resumes bit for bit, falls back, starts from another, and
compiles once.
"""

import json
import shutil

import jax
import jax.monitoring
import numpy as np
import pytest
from helpers.errors import expect_error
from helpers.run import NO_EVALS, PLAIN, config, rows
from PIL import Image

from ddaepp_jax import load
from ddaepp_jax.base.errors import NonFiniteError
from ddaepp_jax.run.train import train_and_evaluate


def check_states_equal(one, other):
    """Every saved array of the newest checkpoints is the same, bit for bit."""
    one, other = load(one).state(), load(other).state()
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), one, other
    )


def test_run_directory(plain):
    assert {entry.name for entry in plain.iterdir()} >= {
        "config.json",
        "checkpoints",
        "metrics.jsonl",
        "tensorboard",
        "samples",
    }
    assert {entry.name for entry in (plain / "checkpoints").iterdir()} == {"3", "6"}
    for step in ("3", "6"):
        assert {e.name for e in (plain / "checkpoints" / step).iterdir() if e.is_dir()} == {
            "params",
            "ema",
            "optimizer",
            "meta",
        }
    logged = rows(plain)
    assert [row["step"] for row in logged if "loss" in row] == [2, 3, 4, 6]
    assert all(np.isfinite(value) for row in logged for value in row.values())
    (heldout,) = (row for row in logged if row["step"] == 4 and "heldout_loss/ema0.999/mean" in row)
    levels = [value for name, value in heldout.items() if "/t" in name]
    assert len(levels) == 3 and np.isclose(np.mean(levels), heldout["heldout_loss/ema0.999/mean"])
    assert heldout["heldout_loss/ema0.999/condition_off"] > 0
    for name in ("probe/ema0.999/bottleneck/t11", "knn/ema0.999/bottleneck/t11"):
        assert [row["step"] for row in logged if name in row] == [4, 6]
        assert all(0 <= row[name] <= 100 for row in logged if name in row)
    assert sorted(path.name for path in (plain / "samples").glob("*.png")) == [
        "00000004.png",
        "00000006.png",
    ]


@pytest.mark.smoke
def test_stopped_and_resumed_run_is_the_whole_run(plain, tmp_path):
    """A resumed run may change its length where the schedule doesn't depend on it, its dispatches
    and evaluations.
    """
    train_and_evaluate(config(**PLAIN | NO_EVALS | dict(train__steps=3)), tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open(
        "a"
    ) as file:  # rows of steps that were never saved are cut
        file.write('{"step": 5, "loss": 9.0}\n{"step": 6, "lo')
    train_and_evaluate(
        config(**PLAIN | NO_EVALS | dict(train__steps_per_dispatch=3)), tmp_path / "run"
    )
    check_states_equal(plain, tmp_path / "run")
    strip = lambda logged: [
        {k: v for k, v in row.items() if "per_second" not in k} for row in logged if "loss" in row
    ]
    assert strip(rows(plain)) == strip(rows(tmp_path / "run"))


def test_finished_run_does_nothing_more(plain, tmp_path, capsys):
    shutil.copytree(plain, tmp_path / "run")
    train_and_evaluate(config(**PLAIN), tmp_path / "run")
    assert "all of its 6 steps" in capsys.readouterr().out
    assert rows(tmp_path / "run") == rows(plain)


def test_truncated_newest_checkpoint_falls_back(damaged, plain, capsys):
    for path in (damaged / "checkpoints" / "6" / "params").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    train_and_evaluate(config(**PLAIN | NO_EVALS), damaged)
    out = capsys.readouterr().out
    assert str(damaged / "checkpoints" / "6") in out and "resumed at step 3" in out
    assert (damaged / "damaged-6").is_dir()
    check_states_equal(damaged, plain)


def test_one_compilation_a_program(tmp_path):
    """Training is compiled once in a whole run, whatever the lengths of its dispatches; so is
    everything else.
    """
    jax.clear_caches()  # of what other tests compiled
    names = []

    def listen(event, duration, **fields):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(fields["fun_name"].removeprefix("jit(").removesuffix(")"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    fields = PLAIN | dict(
        train__steps=14, train__steps_per_dispatch=5, train__log_every=3, train__checkpoint_every=7
    )
    evals = {
        f"evals__{name}__every": 7
        for name in ("samples", "heldout_loss", "probe", "knn", "features")
    }
    try:
        train_and_evaluate(config(**fields, **evals), tmp_path / "run")
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    wanted = dict.fromkeys(("train", "sample_batch", "losses", "fit", "predictions"), 1) | {
        "feature_batch": 2
    }  # and views
    assert {name: names.count(name) for name in wanted} == wanted, names


def test_best_checkpoints_stay_and_open_by_name(tmp_path):
    """Beside the newest: the best by held-out loss, which falls here, and by the probe, which is as
    it is.
    """
    fields = (
        PLAIN
        | NO_EVALS
        | dict(train__steps=16, train__checkpoint_every=2, train__keep_checkpoints=1)
    )
    fields |= dict(evals__probe__every=2, evals__heldout_loss__every=4)
    train_and_evaluate(config(**fields), tmp_path / "run")
    logged = rows(tmp_path / "run")
    values = {row["step"]: row[name] for row in logged for name in row if name.startswith("probe/")}
    assert sorted(values) == list(range(2, 17, 2))
    best = next(step for step in sorted(values) if values[step] == max(values.values()))
    losses = {row["step"]: row[name] for row in logged for name in row if name.endswith("/mean")}
    lowest = min(losses, key=losses.get)
    saved = {int(entry.name) for entry in (tmp_path / "run" / "checkpoints").iterdir()}
    assert saved == {16, best, lowest}
    assert load(tmp_path / "run", step="probe").step == best
    assert load(tmp_path / "run", step="heldout_loss").step == lowest


def test_a_run_of_an_older_version_opens_and_resumes(damaged):
    """Fields that came later and move no number of the training take their defaults."""
    run = damaged
    old = json.loads((run / "config.json").read_text())
    del (
        old["probe"],
        old["evals"]["probe"],
        old["evals"]["knn"],
        old["evals"]["features"],
        old["sampling"]["guidance"],
    )
    del old["ema"]["sigma_rel"], old["ema"]["snapshot_every"]
    del old["objectives"]["distillation"], old["objectives"]["denoising"]["schedule"]
    del (
        old["sampling"]["guidance_interval"],
        old["sampling"]["euler"],
        old["sampling"]["heun"]["s_noise"],
    )
    (run / "config.json").write_text(json.dumps(old))
    opened = load(run).config
    assert opened.objectives.distillation.weight == 0
    assert opened.probe.protocol == "cached" and opened.sampling.guidance_interval == ()
    assert opened.sampling.euler.shift == 1 and opened.sampling.heun.s_noise == 1.007
    train_and_evaluate(config(**PLAIN), run)
    del old["optimizer"]["clip_norm"]  # this one does move numbers
    (run / "config.json").write_text(json.dumps(old))
    with expect_error(str(run / "config.json"), "optimizer.clip_norm"):
        load(run)


@pytest.mark.slow
def test_a_distilled_run_resumes_with_its_teacher(plain, tmp_path):
    """Bit for bit. It may start from a plain run, of which the teacher is then a copy."""
    fields = {"objectives__distillation__weight": 0.1, "objectives__distillation__geometric": 0.0}
    fields |= PLAIN | NO_EVALS | {"objectives__distillation__teacher_schedule": "constant"}
    one, two, grafted = (tmp_path / name for name in ("one", "two", "grafted"))
    train_and_evaluate(config(**fields), one)
    train_and_evaluate(config(**fields | dict(train__steps=3)), two)
    train_and_evaluate(config(**fields), two)
    check_states_equal(one, two)
    state = load(one).state()
    student, teacher = (
        tree["objectives"]["distillation"] for tree in (state.params, state.ema["distillation"])
    )
    assert not np.array_equal(
        *(np.asarray(tree["projector"]["linear_1"]["kernel"]) for tree in (student, teacher))
    )
    fixed = {
        "objectives__distillation__teacher_decay": 1.0,
        "train__steps": 1,
        "init_from": str(plain),
    }
    state = train_and_evaluate(config(**fields | fixed), grafted)
    kept = jax.device_get((state.ema["distillation"]["network"], load(plain).params))
    jax.tree.map(np.testing.assert_array_equal, *kept)
    cosine = config(**fields | {"objectives__distillation__teacher_schedule": "cosine"})
    train_and_evaluate(cosine, tmp_path / "cosine")
    cosine.train.steps = 8
    with expect_error(str(tmp_path / "cosine" / "config.json"), "train.steps: 6 -> 8"):
        train_and_evaluate(cosine, tmp_path / "cosine")


@pytest.mark.slow
def test_init_from_another_run(tmp_path, capsys):
    """Self-conditioning is added to a plain network; its own parameters start as they always do."""
    fields = PLAIN | NO_EVALS | dict(train__steps=1)
    train_and_evaluate(config(**fields, model__self_condition=False), tmp_path / "plain")
    more = config(
        **fields, init_from=str(tmp_path / "plain")
    )  # the first step's learning rate is 0
    state = train_and_evaluate(more, tmp_path / "more")
    assert "self_conditioning/" in capsys.readouterr().out
    expected = load(tmp_path / "plain").params
    given = dict(state.params["network"])
    assert not np.any(np.asarray(given.pop("self_conditioning")["project"]["kernel"]) > 1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-6),
        given,
        expected,
    )


def test_non_finite_loss_stops_and_saves_nothing(tmp_path):
    fields = dict(
        optimizer__learning_rate=1e30,
        optimizer__warmup_steps=0,
        optimizer__clip_norm=0.0,
        train__steps=8,
    )
    with pytest.raises(NonFiniteError, match=r"^step [1-8]: .*(loss|network/)"):
        train_and_evaluate(config(**NO_EVALS | fields), tmp_path / "run")
    saved = [
        int(path.name)
        for path in (tmp_path / "run" / "checkpoints").iterdir()
        if path.name.isdigit()
    ]
    for step in saved:
        state = load(tmp_path / "run", step=step).state()
        assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state.params))


def test_profiler_window(tmp_path):
    train_and_evaluate(
        config(**PLAIN | NO_EVALS, profile__start=1, profile__steps=2), tmp_path / "run"
    )
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))


def test_dry_run_prints_and_writes_nothing(tmp_path, capsys):
    train_and_evaluate(config(**PLAIN), tmp_path / "run", dry_run=True)
    out = capsys.readouterr().out
    for part in (
        '"bottleneck": "mid"',
        "network/mid/attn/qkv/kernel",
        "steps: 6",
        "memory:",
        "Total:",
    ):
        assert part in out
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_image_folder_trains(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for i in range(20):
            path = tmp_path / "images" / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (12, 8, 3), np.uint8)).save(path)
    fields = dict(
        data__name="folder", data__data_dir=str(tmp_path / "images"), model__class_conditional=True
    )
    train_and_evaluate(config(**NO_EVALS | fields), tmp_path / "run")
    run = load(tmp_path / "run")
    assert run.image_shape == (12, 8, 3) and run.class_names == ("a", "b")
