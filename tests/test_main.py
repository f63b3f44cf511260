"""A whole run: what it writes, that it resumes bit for bit, falls back, starts from another, and compiles once."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.monitoring
import numpy as np
import pytest
from tiny import config

from ddaepp_jax import load, main
from ddaepp_jax.errors import InputError, NonFiniteError

COUNT_STEPS = dict(train__steps=6, train__checkpoint_every=3, train__steps_per_dispatch=2, train__log_every=2)


def rows(workdir):
    return [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]


def check_states_equal(one, other):
    """Every saved array of the newest checkpoints, bit for bit."""
    one, other = load(one).state(), load(other).state()
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), one, other)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    main.train_and_evaluate(config(**COUNT_STEPS), workdir)
    return workdir


def test_run_directory(whole):
    assert {entry.name for entry in whole.iterdir()} >= {
        "config.json",
        "checkpoints",
        "metrics.jsonl",
        "tensorboard",
        "samples",
    }
    assert {entry.name for entry in (whole / "checkpoints").iterdir()} == {"3", "6"}
    for step in ("3", "6"):
        assert {e.name for e in (whole / "checkpoints" / step).iterdir() if e.is_dir()} == {
            "params",
            "ema",
            "optimizer",
            "meta",
        }
    logged = rows(whole)
    assert [row["step"] for row in logged if "loss" in row] == [2, 3, 4, 6]
    assert all(np.isfinite(value) for row in logged for value in row.values())
    (heldout,) = (row for row in logged if row["step"] == 4 and "heldout_loss/ema0.999/mean" in row)
    levels = [value for name, value in heldout.items() if "/t" in name]
    assert len(levels) == 3 and np.isclose(np.mean(levels), heldout["heldout_loss/ema0.999/mean"])
    for name in ("probe/ema0.999/bottleneck/t11", "knn/ema0.999/bottleneck/t11"):
        assert [row["step"] for row in logged if name in row] == [4, 6]
        assert all(0 <= row[name] <= 100 for row in logged if name in row)
    assert sorted(path.name for path in (whole / "samples").glob("*.png")) == ["00000004.png", "00000006.png"]


def test_stopped_and_resumed_run_is_the_whole_run(whole, tmp_path):
    """The length is one of the fields that a resumed run may change, where the schedule doesn't depend on it."""
    fields = COUNT_STEPS | dict(optimizer__schedule="constant")
    main.train_and_evaluate(config(**fields), tmp_path / "one")
    main.train_and_evaluate(config(**fields | dict(train__steps=3)), tmp_path / "two")
    with (tmp_path / "two" / "metrics.jsonl").open("a") as file:  # rows of steps that were never saved are cut
        file.write('{"step": 5, "loss": 9.0}\n{"step": 6, "lo')
    main.train_and_evaluate(config(**fields | dict(train__steps_per_dispatch=3)), tmp_path / "two")
    check_states_equal(tmp_path / "one", tmp_path / "two")
    strip = lambda logged: [{k: v for k, v in row.items() if "per_second" not in k} for row in logged if "loss" in row]
    assert strip(rows(tmp_path / "one")) == strip(rows(tmp_path / "two"))


def test_finished_run_does_nothing_more(whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "run")
    main.train_and_evaluate(config(**COUNT_STEPS), tmp_path / "run")
    assert "has all of its 6 steps" in capsys.readouterr().out
    assert rows(tmp_path / "run") == rows(whole)


@pytest.mark.parametrize("item", ["params", "ema", "optimizer", "meta"])
def test_truncated_newest_checkpoint_falls_back(whole, tmp_path, capsys, item):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for path in (run / "checkpoints" / "6" / item).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    main.train_and_evaluate(config(**COUNT_STEPS), run)
    out = capsys.readouterr().out
    assert f"{run / 'checkpoints' / '6'}: cannot be read" in out and "resumed at step 3" in out
    assert (run / "damaged-6").is_dir()
    check_states_equal(run, whole)


def test_another_number_of_devices_resumes(whole, tmp_path):
    """8 -> 4 x 2 with FSDP -> and opened by 1 device's worth of code: the restored bits are the saved ones."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    main.train_and_evaluate(config(**COUNT_STEPS, mesh__data=2, mesh__fsdp=4), run)
    check_states_equal(run, whole)


def test_one_compilation_a_program(tmp_path):
    """Training is compiled once in a whole run, whatever the lengths of its dispatches; so is everything else."""
    jax.clear_caches()  # of what other tests compiled
    names = []

    def listen(event, duration, **fields):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(fields["fun_name"].removeprefix("jit(").removesuffix(")"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    fields = dict(train__steps=14, train__steps_per_dispatch=5, train__log_every=3, train__checkpoint_every=7)
    evals = {f"evals__{name}__every": 7 for name in ("samples", "heldout_loss", "probe", "knn", "features")}
    try:
        main.train_and_evaluate(config(**fields, **evals), tmp_path / "run")
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    wanted = dict.fromkeys(("train", "sample_batch", "losses", "fit", "guesses"), 1) | {"feature_batch": 2}  # and views
    assert {name: names.count(name) for name in wanted} == wanted, names


def test_best_checkpoints_stay_and_open_by_name(tmp_path):
    """Beside the newest: the best by held-out loss, which falls here, and by the probe, which is as it is."""
    fields = dict(train__steps=16, train__checkpoint_every=2, train__keep_checkpoints=1, evals__samples__every=0)
    fields |= dict(evals__probe__every=2, evals__heldout_loss__every=4, evals__knn__every=0)
    main.train_and_evaluate(config(**fields), tmp_path / "run")
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


def test_a_run_of_an_older_version_opens_and_resumes(whole, tmp_path):
    """Fields that came later and move no number of the training take their defaults."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    old = json.loads((run / "config.json").read_text())
    del old["probe"], old["evals"]["probe"], old["evals"]["knn"], old["evals"]["features"], old["sampling"]["guidance"]
    del old["ema"]["sigma_rel"], old["ema"]["snapshot_every"]
    del old["objectives"]["distillation"], old["objectives"]["denoising"]["schedule"]
    del old["sampling"]["guidance_interval"], old["sampling"]["euler"], old["sampling"]["heun"]["s_noise"]
    (run / "config.json").write_text(json.dumps(old))
    opened = load(run).config
    assert opened.objectives.distillation.weight == 0
    assert opened.probe.protocol == "cached" and opened.sampling.guidance_interval == ()
    assert opened.sampling.euler.shift == 1 and opened.sampling.heun.s_noise == 1.007
    main.train_and_evaluate(config(**COUNT_STEPS), run)
    del old["optimizer"]["clip_norm"]  # this one does move numbers
    (run / "config.json").write_text(json.dumps(old))
    with pytest.raises(InputError, match=r"optimizer\.clip_norm: missing"):
        load(run)


@pytest.mark.slow
def test_a_distilled_run_resumes_with_its_teacher(whole, tmp_path):
    """Bit for bit. It may start from a plain run, of which the teacher is then a copy."""
    fields = {"objectives__distillation__weight": 0.1, "objectives__distillation__geometric": 0.0}
    fields |= COUNT_STEPS | {
        "optimizer__schedule": "constant",
        "objectives__distillation__teacher_schedule": "constant",
    }
    one, two, grafted = (tmp_path / name for name in ("one", "two", "grafted"))
    main.train_and_evaluate(config(**fields), one)
    main.train_and_evaluate(config(**fields | dict(train__steps=3)), two)
    main.train_and_evaluate(config(**fields), two)
    check_states_equal(one, two)
    state = load(one).state()
    student, teacher = (tree["objectives"]["distillation"] for tree in (state.params, state.ema["distillation"]))
    assert not np.array_equal(*(np.asarray(tree["projector"]["linear_1"]["kernel"]) for tree in (student, teacher)))
    fixed = {"objectives__distillation__teacher_decay": 1.0, "train__steps": 1, "init_from": str(whole)}
    state = main.train_and_evaluate(config(**fields | fixed), grafted)
    kept = jax.device_get((state.ema["distillation"]["network"], load(whole).params))
    jax.tree.map(np.testing.assert_array_equal, *kept)
    cosine = config(**fields | {"objectives__distillation__teacher_schedule": "cosine"})
    main.train_and_evaluate(cosine, tmp_path / "cosine")
    cosine.train.steps = 8
    with pytest.raises(InputError, match=r"this run has another config \(train\.steps: 6 -> 8\)"):
        main.train_and_evaluate(cosine, tmp_path / "cosine")


def test_init_from_another_run(whole, tmp_path, capsys):
    """Self-conditioning is added to a plain network; what it brings starts as it always does."""
    plain = config(**COUNT_STEPS, model__self_condition=False)
    main.train_and_evaluate(plain, tmp_path / "plain")
    state = main.train_and_evaluate(
        config(train__steps=1, init_from=str(tmp_path / "plain"), optimizer__learning_rate=1e-9), tmp_path / "more"
    )
    assert "init_from: the network initialises self_conditioning/" in capsys.readouterr().out
    expected = load(tmp_path / "plain").params
    given = dict(state.params["network"])
    assert not np.any(np.asarray(given.pop("self_conditioning")["project"]["kernel"]) > 1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-6), given, expected)


def test_non_finite_loss_stops_and_saves_nothing(tmp_path):
    broken = config(optimizer__learning_rate=1e30, optimizer__warmup_steps=0, optimizer__clip_norm=0.0, train__steps=8)
    with pytest.raises(NonFiniteError, match=r"step [1-8]: .*(loss|gradient of network/).* not finite"):
        main.train_and_evaluate(broken, tmp_path / "run")
    saved = [int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit()]
    for step in saved:
        state = load(tmp_path / "run", step=step).state()
        assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state.params))


def test_profiler_window(tmp_path):
    main.train_and_evaluate(config(profile__start=1, profile__steps=2), tmp_path / "run")
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))


def test_dry_run_prints_and_writes_nothing(tmp_path, capsys):
    main.train_and_evaluate(config(mesh__data=2, mesh__fsdp=4), tmp_path / "run", dry_run=True)
    out = capsys.readouterr().out
    for part in ('"bottleneck": "mid"', "network/mid/attn/qkv/kernel", "fsdp", "steps: 4", "memory:", "Total:"):
        assert part in out
    assert not (tmp_path / "run").exists()


def test_image_folder_trains(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for i in range(20):
            path = tmp_path / "images" / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (12, 8, 3), np.uint8)).save(path)
    fields = dict(data__name="folder", data__data_dir=str(tmp_path / "images"), model__class_conditional=True)
    main.train_and_evaluate(config(**fields), tmp_path / "run")
    run = load(tmp_path / "run")
    assert run.image_shape == (12, 8, 3) and run.class_names == ("a", "b")


# ---- real processes -------------------------------------------------------------------------------------------------

RUN = [sys.executable, "-m", "ddaepp_jax.main", "--config=ddaepp_jax/config.py:tiny"]
ROOT = Path(__file__).parents[1]


def environment(devices):
    return os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}


def flags(fields):
    return [f"--config.{name.replace('__', '.')}={value}" for name, value in fields.items()]


@pytest.mark.slow
@pytest.mark.parametrize("dispatch", [1, 2])
def test_killed_run_resumes_bit_for_bit(tmp_path, dispatch):
    """6 steps = 3 steps, SIGKILL, the same command, 3 more: parameters, EMA and optimizer."""
    fields = COUNT_STEPS | dict(
        train__steps_per_dispatch=dispatch, evals__samples__every=0, evals__heldout_loss__every=0
    )
    command = [*RUN, *flags(fields)]
    subprocess.run([*command, f"--workdir={tmp_path / 'whole'}"], cwd=ROOT, env=environment(2), check=True)
    killed = tmp_path / "killed"
    # The checkpoint of step 6 never gets committed: the process dies as soon as step 3's is there.
    process = subprocess.Popen([*command, f"--workdir={killed}"], cwd=ROOT, env=environment(2))
    deadline = time.monotonic() + 120
    while not (killed / "checkpoints" / "3").is_dir():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    shutil.rmtree(killed / "checkpoints" / "6", ignore_errors=True)  # in case the kill came late
    subprocess.run([*command, f"--workdir={killed}"], cwd=ROOT, env=environment(2), check=True)
    check_states_equal(killed, tmp_path / "whole")


def two_processes(workdir, fields):
    """A run of two processes that share its parameters, to its end."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    joined = [f"--workdir={workdir}", f"--coordinator={address}", "--num_processes=2"]
    commands = [[*RUN, *flags(fields), *joined, f"--process_id={i}"] for i in range(2)]
    both = [subprocess.Popen(command, cwd=ROOT, env=environment(2)) for command in commands]
    try:
        assert [process.wait(timeout=300) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """The global batch and the losses don't depend on the number of processes; one run directory is written."""
    fields = dict(train__steps=4, train__batch_size=16, data__device_bytes=0)
    subprocess.run([*RUN, *flags(fields), f"--workdir={tmp_path / 'one'}"], cwd=ROOT, env=environment(4), check=True)
    two_processes(tmp_path / "two", fields)
    one, two = (load(tmp_path / name).state() for name in ("one", "two"))
    losses = [[row["loss"] for row in rows(tmp_path / name) if "loss" in row] for name in ("one", "two")]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one.ema), jax.tree.leaves(two.ema), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-4)


@pytest.mark.slow
def test_two_processes_resume_and_keep_snapshots(tmp_path):
    """What was compiled before does not wait in its collectives for ever; a process saves its part of snapshots."""
    fields = COUNT_STEPS | dict(ema__sigma_rel="(0.05,0.1)", ema__snapshot_every=2, optimizer__schedule="constant")
    fields |= dict(mesh__data=1, mesh__fsdp=-1)
    for steps in (3, 6):
        two_processes(tmp_path / "two", fields | dict(train__steps=steps))
    assert {entry.name for entry in (tmp_path / "two" / "snapshots").iterdir()} == {"2", "3", "4", "6"}
    assert load(tmp_path / "two", sigma_rel=0.1).step == 6
