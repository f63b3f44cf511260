"""Which checkpoints stay, and which one is restored where the newest is damaged."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.errors import expect_error
from jax.sharding import NamedSharding, PartitionSpec

from ddaepp_jax.base.errors import SaveError
from ddaepp_jax.base.parallel import make_mesh
from ddaepp_jax.training import checkpoint, snapshots
from ddaepp_jax.training.checkpoint import Checkpoints
from ddaepp_jax.training.snapshots import Snapshots
from ddaepp_jax.training.step import TrainState

RANKS = {"loss": min, "probe": max}


def state(step):
    placed = NamedSharding(make_mesh((1, 1, 1), jax.devices()[:1]), PartitionSpec())
    made = TrainState(
        jnp.int32(step),
        {"w": jnp.full(3, float(step))},
        {"0.9": {"w": jnp.zeros(3)}},
        {"m": jnp.ones(1)},
        jnp.int32(0),
    )
    return jax.device_put(made, placed)


def save(directory, measured, keep=2):
    """Checkpoints at the steps of {step: values measured there}, by a manager of its own."""
    checkpoints = Checkpoints(directory, keep, RANKS)
    for step, values in measured.items():
        checkpoints.save(state(step), {"step": step, "measured": values})
    checkpoints.close()


def conditioned(bias):
    """A state whose network and average hold the time-adaptive scale of self-conditioning."""
    network = {"self_conditioning": {"scale": {"bias": jnp.full(3, bias)}}, "bias": jnp.ones(3)}
    moments = {"self_conditioning": {"scale": {"bias": jnp.full(3, 0.25)}}}
    parameters = {"network": network, "objectives": {}}
    placed = NamedSharding(make_mesh((1, 1, 1), jax.devices()[:1]), PartitionSpec())
    averages = {name: parameters for name in ("0.9", "sigma_rel0.05", "distillation")}
    made = TrainState(jnp.int32(1), parameters, averages, moments, jnp.int32(0))
    return jax.device_put(made, placed)


@pytest.mark.parametrize(("version", "subtracted"), [(1, 1.0), (checkpoint.FORMAT, 0.0)])
def test_the_scale_is_converted_from_format_1_once(tmp_path, monkeypatch, version, subtracted):
    """In the parameters, in every average and in snapshots, but not in the optimizer's moments."""
    state = conditioned(1.5)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", version)
        patch.setattr(snapshots, "FORMAT", version)
        save_state(tmp_path, state)
    for _ in range(2):  # what is saved again is not converted again
        restored = checkpoint.restore_state(tmp_path / "checkpoints", 1, state)
        shutil.rmtree(tmp_path / "checkpoints")
        saved = {"sigma_rel0.05": checkpoint_network(tmp_path / "snapshots", "sigma_rel0.05")}
        shutil.rmtree(tmp_path / "snapshots")
        save_state(tmp_path, restored)
        saved |= {n: checkpoint_network(tmp_path / "checkpoints", n) for n in state.ema}
        for network in (
            *saved.values(),
            restored.params["network"],
            *(average["network"] for average in restored.ema.values()),
        ):
            scale = network["self_conditioning"]["scale"]["bias"]
            np.testing.assert_array_equal(scale, 1.5 - subtracted)
            np.testing.assert_array_equal(network["bias"], 1)
        moments = restored.opt_state["self_conditioning"]["scale"]["bias"]
        np.testing.assert_array_equal(moments, 0.25)


def save_state(directory, state):
    checkpoints = Checkpoints(directory / "checkpoints", 1, RANKS)
    checkpoints.save(state, {"step": 1, "measured": {}})
    checkpoints.close()
    kept = Snapshots(directory / "snapshots", 0)
    kept.save(1, state)
    kept.close()


def checkpoint_network(directory, name):
    placed = NamedSharding(make_mesh((1, 1, 1), jax.devices()[:1]), PartitionSpec())
    return checkpoint.restore_networks(directory, 1, [name], placed)[name]


def there(directory):
    return sorted(int(entry.name) for entry in directory.iterdir())


def test_newest_and_best_stay(tmp_path):
    directory = tmp_path / "checkpoints"
    save(
        directory,
        {
            1: {"loss": 3.0, "probe": 9.0},
            2: {"loss": 1.0},
            3: {},
            4: {"loss": 2.0, "probe": 5.0},
            5: {},
        },
    )
    assert there(directory) == [1, 2, 4, 5]
    save(
        directory, {6: {"probe": 9.5}, 7: {"loss": 1.0}, 8: {"loss": 4.0}}
    )  # the restarted run knows what was best
    assert there(directory) == [2, 6, 7, 8]  # the older of two equal losses
    assert (
        checkpoint.best_step(directory, "loss", min) == 2
        and checkpoint.best_step(directory, "probe", max) == 6
    )


def test_only_the_newest_stay_where_nothing_is_measured(tmp_path):
    save(tmp_path / "checkpoints", {step: {} for step in range(1, 6)})
    assert there(tmp_path / "checkpoints") == [4, 5]
    with expect_error("step", "probe"):
        checkpoint.best_step(tmp_path / "checkpoints", "probe", max)


def test_a_damaged_meta_ranks_nowhere(tmp_path):
    directory = tmp_path / "checkpoints"
    save(directory, {1: {"loss": 1.0}, 2: {"loss": 2.0}})
    for path in (directory / "1" / "meta").rglob("*"):
        if path.is_file():
            path.write_bytes(b"{")
    save(directory, {3: {"loss": 3.0}, 4: {"loss": 3.5}})
    assert there(directory) == [2, 3, 4]
    assert checkpoint.best_step(directory, "loss", min) == 2


@pytest.mark.parametrize("item", ["params", "ema", "optimizer", "meta"])
def test_a_truncated_newest_checkpoint_is_set_aside_for_the_one_before(tmp_path, item):
    directory = tmp_path / "checkpoints"
    save(directory, {1: {}, 2: {}})
    for path in (directory / "2" / item).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    checkpoints = Checkpoints(directory, 2, RANKS)
    restored, _, damage = checkpoints.restore(state(0))
    checkpoints.close()
    assert int(restored.step) == 1 and (restored.params["w"] == 1).all()
    assert len(damage) == 1 and str(directory / "2") in damage[0]
    assert there(directory) == [1] and (tmp_path / "damaged-2").is_dir()


def test_no_readable_checkpoint_is_an_error(tmp_path):
    directory = tmp_path / "checkpoints"
    save(directory, {1: {}})
    shutil.rmtree(directory / "1" / "params")
    checkpoints = Checkpoints(directory, 2, RANKS)
    with expect_error(str(directory / "1")):
        checkpoints.restore(state(0))
    checkpoints.close()


def test_a_checkpoint_under_the_number_of_another_step_is_none(tmp_path):
    """A copy or a renamed checkpoint is set aside, and training goes on from the right one."""
    directory = tmp_path / "checkpoints"
    save(directory, {1: {}, 2: {}})
    shutil.copytree(directory / "1", directory / "9")
    with expect_error(str(directory / "9"), "step 1"):
        checkpoint.read_meta(directory, 9)
    checkpoints = Checkpoints(directory, 2, RANKS)
    restored, _, damage = checkpoints.restore(state(0))
    assert int(restored.step) == 2
    assert damage == [f"{directory / '9'}: cannot be read ({directory / '9'}: holds step 1)"]
    checkpoints.save(state(3), {"step": 3, "measured": {}})
    checkpoints.close()
    assert there(directory) == [2, 3]


def test_only_folders_named_as_a_save_names_them_are_steps(tmp_path):
    for name in ("4", "10", "007", "²", "٣", "5.bak", "6 (copy)", "-1"):
        (tmp_path / name).mkdir()
    (tmp_path / "8").write_text("")
    assert checkpoint.steps_of(tmp_path) == [4, 10]


def test_a_step_that_is_not_saved_is_an_error(tmp_path):
    """Orbax skips a step that is older than the newest there."""
    save(tmp_path / "checkpoints", {2: {}})
    checkpoints = Checkpoints(tmp_path / "checkpoints", 2, RANKS)
    with pytest.raises(SaveError, match="holds a later step than 1"):
        checkpoints.save(state(1), {"step": 1, "measured": {}})
    checkpoints.close()
