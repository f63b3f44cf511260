"""Bad arguments and data of the program ``linear_probe``."""

import json

import numpy as np
import pytest
from helpers.errors import expect_error
from PIL import Image

import ddaepp_jax
from ddaepp_jax import linear_probe
from ddaepp_jax.probing import level
from ddaepp_jax.probing.heads import total_steps


@pytest.fixture(scope="module")
def opened(plain):
    """The plain run, opened once."""
    return ddaepp_jax.load(plain)


@pytest.fixture(autouse=True)
def no_features(monkeypatch):
    monkeypatch.setattr(level, "store", lambda *_, **__: pytest.fail("made features"))


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        (dict(protocol="ofline"), "protocol", ["'ofline'", "online"]),
        (dict(layers=("out_9",)), "layers", ["'out_9'", "bottleneck"]),
        (dict(levels=(11, 1001)), "levels", ["1001", "1000"]),
        (dict(held_out=1.0), "held_out", ["1.0"]),
        (dict(epochs=0), "epochs", ["positive"]),
        (dict(batch_size=0), "batch_size", ["positive"]),
        (dict(learning_rates=(1e-3, 0.0)), "learning_rates", ["(0.001, 0.0)", "positive"]),
        (dict(l2=-1.0), "l2", ["-1.0", "positive"]),
        (dict(knn=-1), "knn", ["-1", "positive"]),
        (dict(seed=-1), "seed", ["-1", "2**32"]),
    ],
)
def test_bad_setting(fields, field, words, opened):
    with expect_error(field, *words):
        linear_probe.settings(opened, **fields)


def test_more_steps_than_can_be_counted():
    assert total_steps(1350, 10, 512) == 27
    with expect_error("epochs", "10000000000000", "fewer"):
        total_steps(1350, 10**13, 512)


@pytest.mark.parametrize(("held_out", "left"), [(0.0001, "0"), (0.9999, "1500")])
def test_a_share_that_leaves_no_image(held_out, left, opened, tmp_path):
    with expect_error("held_out", f"{held_out} of 1500", left):
        linear_probe.probe(
            opened, linear_probe.settings(opened, held_out=held_out), tmp_path / "probe"
        )


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        (["--levels=low"], "argument --levels", ["'low'", "comma"]),
        (["--learning_rates=fast"], "argument --learning_rates", ["'fast'", "comma"]),
        (["--standardise=maybe"], "argument --standardise", ["'maybe'", "True"]),
        (["--data_dir=x", "--nn=3"], "unrecognized", ["--nn=3"]),
        (["--step=accuracy"], "step", ["'accuracy'", "heldout_loss"]),
        (["--layers=out_9"], "layers", ["'out_9'", "bottleneck"]),
        (["--protocol=online", "--batch_size=0"], "batch_size", ["positive"]),
        (["--held_out=0.0001"], "held_out", ["0.0001"]),
        (["--eval_split=train"], "data.eval_split", ["1500 of the 1500", "'train'"]),
        (["--eval_split=val"], "data.eval_split", ["'val'", "train or test"]),
        (["--out=/dev/null/x"], "--out", ["/dev/null/x", "another"]),
        ([f"--out={'x' * 253}"], "--out", ["too long", "another"]),
        (["--out=x\ny"], "argument --out", ["'x\\ny'", "line break"]),
    ],
)
def test_bad_argument(arguments, field, words, plain, tmp_path):
    with expect_error(field, *words):
        linear_probe.main([f"--workdir={plain}", f"--out={tmp_path / 'probe'}", *arguments])


def test_probe_of_no_run_directory(tmp_path):
    with expect_error("the following arguments", "--workdir"):
        linear_probe.main([])
    with expect_error(f"{tmp_path}", "config.json"):
        linear_probe.main([f"--workdir={tmp_path}"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ["not a probe", "--out"]),
        ("[]", ["not a probe", "--out"]),
        (
            '{"settings": {"step": 3}, "rows": [], "seconds": {}}',
            ["step: 3 -> 6", "decay: None -> 0.999", "fresh: None -> False", "12 more", "--out"],
        ),
    ],
)
def test_probe_onto_other_results(text, words, opened, tmp_path):
    (tmp_path / "probe.json").write_text(text)
    with expect_error(f"{tmp_path / 'probe.json'}", *words):
        linear_probe.probe(opened, linear_probe.settings(opened), tmp_path / "probe")


def test_probe_of_unlabelled_and_of_other_images(damaged, tmp_path):
    for split in ("train", "test"):
        for i in range(20):
            path = tmp_path / "data" / split / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), i, np.uint8)).save(path)
    config = json.loads((damaged / "config.json").read_text())
    config["data"] |= {"name": "folder", "data_dir": str(tmp_path / "nowhere")}
    (damaged / "config.json").write_text(json.dumps(config))
    with expect_error("data.data_dir", f"{tmp_path / 'nowhere'}", "not a folder"):
        linear_probe.main([f"--workdir={damaged}"])
    arguments = [f"--workdir={damaged}", f"--data_dir={tmp_path / 'data'}"]
    with expect_error("data.name", f"{tmp_path / 'data'}", "labels"):
        linear_probe.main(arguments)
    for split in ("train", "test"):
        for i in range(20):
            path = tmp_path / "data" / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 12), i, np.uint8)).save(path)
            (tmp_path / "data" / split / f"{i}.png").unlink()
    with expect_error("data.data_dir", "(8, 12, 1)", "(8, 8, 1)"):
        linear_probe.main(arguments)
