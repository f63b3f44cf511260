"""A rollback skips the data up to a step that is not finite, and the run keeps to that."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.errors import expect_error
from helpers.run import NO_EVALS, PLAIN, config, rows

from ddaepp_jax import build, load
from ddaepp_jax.base.errors import NonFiniteError
from ddaepp_jax.data.order import batch_indices
from ddaepp_jax.run.train import train_and_evaluate
from ddaepp_jax.training import rollback, source

BAD = 7  # number of the batch that is not finite
FIELDS = PLAIN | NO_EVALS | dict(train__steps=12, train__log_every=1, data__flip=True)


@pytest.fixture
def bad_batch(monkeypatch):
    """Makes the images of one batch infinite, whatever they are."""
    prepare = build.prepare

    def with_bad_batch(config, encoding):
        prepared = prepare(config, encoding)

        def changed(images, number, index):
            batch = prepared(images, number, index)
            return batch | {"image": jnp.where(number == BAD, jnp.inf, batch["image"])}

        return changed

    monkeypatch.setattr(build, "prepare", with_bad_batch)


def train(workdir, **options):
    fields = {name: options.pop(name) for name in list(options) if "__" in name}
    return jax.device_get(train_and_evaluate(config(**FIELDS | fields), workdir, **options))


def losses(workdir):
    return [(row["step"], row["loss"]) for row in rows(workdir)]


def skipped(workdir, step):
    return json.loads((workdir / f"checkpoints/{step}/meta/metadata").read_text())["skipped"]


def test_a_rollback_skips_the_data_up_to_the_bad_batch(bad_batch, tmp_path, capsys):
    """Batches 6 and 7 are left out; the run still takes 12 steps, and keeps to it when resumed."""
    run = tmp_path / "run"
    for _ in range(2):  # It fails again without the rollback.
        with pytest.raises(NonFiniteError, match=f"step {BAD}: .*--rollback"):
            train(run)
    shutil.copytree(run, tmp_path / "streamed")
    capsys.readouterr()
    whole = train(run, rollback=True)
    assert "rollback: from step 6 on, 2 batches are skipped, up to that of step 7" in (
        capsys.readouterr().out
    )
    assert whole.step == 12 and whole.skipped == 2
    assert [step for step, _ in losses(run)] == [*range(1, 13)]
    assert skipped(run, 9) == skipped(run, 12) == 2
    # From the checkpoint after it, with and without the argument, on any source.
    for options in ({}, {"rollback": True}, {"data__device_bytes": 0}):
        resumed = shutil.copytree(run, tmp_path / "resumed")
        shutil.rmtree(resumed / "checkpoints" / "12")
        state = train(resumed, **options)
        jax.tree.map(np.testing.assert_array_equal, state, whole)
        assert losses(resumed) == losses(run)
        shutil.rmtree(resumed)
    assert "no data are skipped" in capsys.readouterr().out
    streamed = train(tmp_path / "streamed", rollback=True, data__device_bytes=0)
    jax.tree.map(np.testing.assert_array_equal, streamed, whole)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(load(run, step=12).state()), whole)


def test_the_images_after_a_rollback_are_those_of_later_numbers(bad_batch, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with pytest.raises(NonFiniteError):
        train(run)
    read = []
    original = source.stream

    def recorded(*args, **kwargs):
        for batch in original(*args, **kwargs):
            read.append(batch["index"])
            yield batch

    monkeypatch.setattr(source, "stream", recorded)
    train(run, rollback=True, data__device_bytes=0)
    size = config().train.batch_size
    expected = [batch_indices(config().seed, number, size, 1500) for number in range(8, 14)]
    np.testing.assert_array_equal(read[:6], expected)


def test_a_run_that_was_always_finite_skips_nothing(tmp_path, capsys):
    whole = train(tmp_path / "run", rollback=True, train__steps=2)
    assert "no data are skipped" in capsys.readouterr().out and whole.skipped == 0


@pytest.mark.parametrize(
    ("step", "before", "after"),
    [(6, 2, 4), (7, 2, 3), (8, 2, 2), (6, 0, 0), (6, 4, 4)],
    ids=["before", "at", "past", "older", "rolled back"],
)
def test_skipped_batches(tmp_path, step, before, after):
    assert rollback.skipped_after(tmp_path, step, before) == before
    rollback.record(tmp_path, 7, 2)
    assert rollback.skipped_after(tmp_path, step, before) == after


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"step": "x", "skipped": 0}'])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / rollback.NAME).write_text(content)
    with expect_error(str(tmp_path / rollback.NAME), "damaged", "remove"):
        rollback.skipped_after(tmp_path, 0, 0)
