"""Bad arguments, data and run directories of the training program, which leaves nothing behind."""

import json

import numpy as np
import pytest
from helpers.errors import TINY, expect_error
from helpers.run import PLAIN, config
from PIL import Image

from ddaepp_jax import main
from ddaepp_jax.run.train import train_and_evaluate


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        (["--workdri=x"], "--workdri=x", ["--help"]),
        (["stray"], "stray", ["--help"]),
        (["--workdir"], "argument --workdir", ["one"]),
        (["--num_processes=two"], "argument --num_processes", ["'two'"]),
        (["--coordinator=somewhere"], "--coordinator", ["'somewhere'", "HOST:PORT"]),
        (["--num_processes=2"], "--num_processes", ["--coordinator"]),
        (["--workdir=gs://bucket/run"], "argument --workdir", ["gs://bucket/run", "local"]),
        (
            ["--process_id=2", "--coordinator=a:1", "--num_processes=2"],
            "--process_id",
            ["2", "--num_processes"],
        ),
    ],
)
def test_bad_argument(arguments, field, words):
    with expect_error(field, *words):
        main.main(arguments)


def test_missing_data(tmp_path):
    data, workdir = tmp_path / "data", tmp_path / "run"
    arguments = [
        f"--workdir={workdir}",
        "--config.data.name=folder",
        f"--config.data.data_dir={data}",
    ]
    with expect_error("data.data_dir", f"{data}", "not a folder"):
        main.main(arguments)
    data.mkdir()
    with expect_error("data.data_dir", f"{data}", "holds no"):
        main.main(arguments)
    assert not workdir.exists()


def test_class_conditional_without_labels(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "data" / split / "0.png")
    fields = (
        "data.name=folder",
        f"data.data_dir={tmp_path / 'data'}",
        "model.class_conditional=True",
    )
    with expect_error("model.class_conditional", "labels", "False"):
        main.main([f"--workdir={tmp_path / 'run'}", *(f"--config.{field}" for field in fields)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [("digitz", ["TensorFlow Datasets", "'digitz'"]), ("no such set", ["'no such set'", "form"])],
)
def test_unknown_data(name, words, tmp_path):
    fields = [f"--config.data.name={name}", f"--config.data.data_dir={tmp_path}"]
    with expect_error("data.name", *words):
        main.main([f"--workdir={tmp_path / 'run'}", *fields])
    assert not (tmp_path / "run").exists()


def test_bad_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    with expect_error("--workdir", f"{tmp_path / 'file' / 'run'}", "Not a directory"):
        main.main([TINY, f"--workdir={tmp_path / 'file' / 'run'}"])
    with expect_error("--workdir", f"{tmp_path}", "not empty"):
        main.main([TINY, f"--workdir={tmp_path}"])


def test_resume_with_another_config(plain):
    """Every field that differs is named, and the run's own config stays."""
    for changed, words in (
        (dict(model__width=64, seed=1), ("model.width: 32 -> 64", "seed: 0 -> 1")),
        (dict(ema__sigma_rel=(0.05, 0.1)), ("ema.sigma_rel: () -> (0.05, 0.1)",)),
    ):
        with expect_error(f"{plain / 'config.json'}", *words):
            train_and_evaluate(config(**PLAIN | changed), plain)
    assert json.loads((plain / "config.json").read_text())["seed"] == 0


def test_init_from_another_width(plain, tmp_path):
    fields = ["--config.model.width=64", f"--config.init_from={plain}"]
    with expect_error("init_from", "32", "64", "shape"):
        main.main([TINY, f"--workdir={tmp_path / 'run'}", *fields])
    assert not (tmp_path / "run").exists()
