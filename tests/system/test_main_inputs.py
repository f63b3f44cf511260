"""Bad arguments, data and run directories of the training program; nothing is left behind."""

import json

import numpy as np
import pytest
from helpers.errors import TINY, check_refused
from PIL import Image

from ddaepp_jax import main


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--workdri=x"], ["--workdri=x: not an argument of this program; see --help"]),
        (["stray"], ["stray: not an argument of this program; see --help"]),
        (["--workdir"], ["argument --workdir: expected one argument"]),
        (["--num_processes=two"], ["argument --num_processes: invalid int value: 'two'"]),
        (["--coordinator=somewhere"], ["--coordinator: 'somewhere' is neither HOST:PORT nor 'auto'"]),
        (["--process_id=2", "--coordinator=a:1", "--num_processes=2"], ["--process_id: 2 is not in 0..1"]),
    ],
)
def test_bad_argument(arguments, parts):
    check_refused(main.main, arguments, *parts)


def test_missing_data(tmp_path):
    data, workdir = tmp_path / "data", tmp_path / "run"
    arguments = [f"--workdir={workdir}", "--config.data.name=folder", f"--config.data.data_dir={data}"]
    check_refused(main.main, arguments, f"data.data_dir: {data} is not a folder")
    data.mkdir()
    check_refused(main.main, arguments, f"data.data_dir: {data} holds no", "give another folder")
    assert not workdir.exists()


def test_class_conditional_without_labels(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "data" / split / "0.png")
    fields = ("data.name=folder", f"data.data_dir={tmp_path / 'data'}", "model.class_conditional=True")
    arguments = [f"--workdir={tmp_path / 'run'}", *(f"--config.{field}" for field in fields)]
    check_refused(main.main, arguments, "model.class_conditional: the data have no labels; set it to False")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("digitz", ["data.name: TensorFlow Datasets has no 'digitz'", "mend it"]),
        ("no such set", ["data.name: 'no such set' is not of the form name"]),
    ],
)
def test_unknown_data(name, parts, tmp_path):
    arguments = [f"--workdir={tmp_path / 'run'}", f"--config.data.name={name}", f"--config.data.data_dir={tmp_path}"]
    check_refused(main.main, arguments, *parts)
    assert not (tmp_path / "run").exists()


def test_bad_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    check_refused(
        main.main, [TINY, f"--workdir={tmp_path / 'file' / 'run'}"], "--workdir: cannot write", "(Not a directory)"
    )
    check_refused(
        main.main, [TINY, f"--workdir={tmp_path}"], f"--workdir: {tmp_path} is not empty and not a run directory"
    )


def test_resume_with_another_config(trained):
    arguments = [TINY, f"--workdir={trained}", "--config.model.width=64", "--config.seed=1"]
    check_refused(
        main.main, arguments, "config.json: this run has another config", "model.width: 32 -> 64; seed: 0 -> 1"
    )
    arguments = [TINY, f"--workdir={trained}", "--config.ema.sigma_rel=(0.05, 0.1)"]
    check_refused(main.main, arguments, "this run has another config (ema.sigma_rel: () -> (0.05, 0.1))")
    assert json.loads((trained / "config.json").read_text())["seed"] == 0


def test_init_from_another_width(trained, tmp_path):
    arguments = [TINY, f"--workdir={tmp_path / 'run'}", f"--config.init_from={trained}", "--config.model.width=64"]
    check_refused(main.main, arguments, "init_from: ", "there and", "the models differ")
    assert not (tmp_path / "run").exists()
