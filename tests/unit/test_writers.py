"""Where metrics and pictures go."""

import json
import sys
from types import SimpleNamespace

import numpy as np
from helpers.errors import expect_error
from PIL import Image

from ddaepp_jax.training.writers import Writer


def writer(path, **fields):
    return Writer(
        path,
        **dict(active=True, start=0, tensorboard=False, wandb=False, config={"seed": 0}) | fields,
    )


def rows(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_rows_past_the_restored_step_are_cut(tmp_path):
    made = writer(tmp_path)
    for step in (1, 2, 3):
        made.scalars(step, {"loss": 1.0 / step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # a process that died while it wrote
    writer(tmp_path, start=2).scalars(3, {"loss": 0.5})
    assert rows(tmp_path) == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 0.5},
        {"step": 3, "loss": 0.5},
    ]


def test_only_the_first_process_writes(tmp_path):
    made = writer(tmp_path, active=False, tensorboard=True)
    made.scalars(1, {"loss": 1.0})
    made.picture(1, "samples", Image.new("L", (2, 2)))
    made.close()
    assert not list(tmp_path.iterdir())


def test_tensorboard_and_pictures(tmp_path):
    made = writer(tmp_path, tensorboard=True)
    made.scalars(5, {"loss": 0.25})
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    made.picture(5, "samples", picture)
    made.close()
    assert np.array_equal(Image.open(tmp_path / "samples" / "00000005.png"), picture)
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes() and b"samples" in events.read_bytes()


def test_wandb_gets_the_rows(tmp_path, monkeypatch):
    logged, given = [], {}

    def init(**fields):
        given.update(fields)
        return SimpleNamespace(
            log=lambda values, step: logged.append((step, values)),
            finish=lambda: logged.append("end"),
        )

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    made = writer(tmp_path, wandb=True)
    made.scalars(3, {"loss": 2.0})
    made.close()
    assert logged == [(3, {"loss": 2.0}), "end"]
    assert (
        given["config"] == {"seed": 0}
        and given["resume"] == "allow"
        and given["id"] == tmp_path.name
    )


def test_wandb_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with expect_error("logging.wandb", "pip install"):
        writer(tmp_path, wandb=True)
