"""The writer of metrics and pictures."""

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
    first = writer(tmp_path)
    for step in (1, 2, 3):
        first.scalars(step, {"loss": 1.0 / step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # The process died while it wrote this row.
    writer(tmp_path, start=2).scalars(3, {"loss": 0.5})
    assert rows(tmp_path) == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 0.5},
        {"step": 3, "loss": 0.5},
    ]


def test_only_the_first_process_writes(tmp_path):
    inactive = writer(tmp_path, active=False, tensorboard=True)
    inactive.scalars(1, {"loss": 1.0})
    inactive.picture(1, "samples", Image.new("L", (2, 2)))
    inactive.close()
    assert not list(tmp_path.iterdir())


def test_tensorboard_and_pictures(tmp_path):
    with_events = writer(tmp_path, tensorboard=True)
    with_events.scalars(5, {"loss": 0.25})
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    with_events.picture(5, "samples", picture)
    with_events.close()
    assert np.array_equal(Image.open(tmp_path / "samples" / "00000005.png"), picture)
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes() and b"samples" in events.read_bytes()


def test_wandb_gets_the_rows(tmp_path, monkeypatch):
    logged = []
    arguments = {}

    def init(**fields):
        arguments.update(fields)
        return SimpleNamespace(
            log=lambda values, step: logged.append((step, values)),
            finish=lambda: logged.append("end"),
        )

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    with_wandb = writer(tmp_path, wandb=True)
    with_wandb.scalars(3, {"loss": 2.0})
    with_wandb.close()
    assert logged == [(3, {"loss": 2.0}), "end"]
    assert arguments["config"] == {"seed": 0}
    assert arguments["resume"] == "allow" and arguments["id"] == tmp_path.name


def test_error_where_wandb_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with expect_error("logging.wandb", "pip install"):
        writer(tmp_path, wandb=True)
