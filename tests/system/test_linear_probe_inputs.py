"""Bad arguments and data of the linear probe."""

import json

import numpy as np
import pytest
from helpers.errors import check_refused
from PIL import Image

from ddaepp_jax import linear_probe


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--protocol=ofline"], ["protocol: no 'ofline'; there is online, cached, imagenet"]),
        (["--layers=out_9"], ["layers: no 'out_9'; there is in_1, mid, out_1, bottleneck"]),
        (["--levels=11,1001"], ["noise_level: 1001.0 is not a whole number in 0..1000"]),
        (["--levels=low"], ["argument --levels: 'low' is not floats with commas between"]),
        (["--held_out=1"], ["held_out: 1.0 is not in [0, 1)"]),
        (["--held_out=0.0001"], ["held_out: 0.0001 of 1500 images are 0; change it"]),
        (["--held_out=0.9999"], ["held_out: 0.9999 of 1500 images are 1500; change it"]),
        (["--epochs=0"], ["epochs: 0 is not positive"]),
        (["--batch_size=0"], ["batch_size: 0 is not positive"]),
        (["--protocol=online", "--batch_size=12"], ["batch_size: 12 is not a multiple of 8, the number of devices"]),
        (["--learning_rates=1e-3,0"], ["learning_rates: (0.001, 0.0) is not positive numbers"]),
        (["--learning_rates=fast"], ["argument --learning_rates: 'fast' is not floats"]),
        (["--standardise=maybe"], ["argument --standardise: 'maybe' is neither True nor False"]),
        (["--l2=-1"], ["l2: -1.0 is not 0 or positive"]),
        (["--knn=-1"], ["knn: -1 is not 0 (none) or positive"]),
        (["--seed=-1"], ["seed: -1 is not in 0..2**32-1"]),
        (["--step=accuracy"], ["step: no 'accuracy'; there is heldout_loss, probe, fid"]),
        (["--out=/dev/null/x"], ["--out: cannot write /dev/null/x", "give another"]),
        (["--data_dir=x", "--nn=3"], ["unrecognized arguments: --nn=3"]),
    ],
)
def test_probe_of_a_run(arguments, parts, trained, monkeypatch):
    monkeypatch.setattr(linear_probe, "store", lambda *_, **__: pytest.fail("made features"))
    check_refused(linear_probe.main, [f"--workdir={trained}", *arguments], *parts)


def test_probe_of_what_is_no_run(tmp_path):
    check_refused(linear_probe.main, [], "the following arguments are required: --workdir")
    check_refused(linear_probe.main, [f"--workdir={tmp_path}"], f"{tmp_path}: not a run directory (no config.json)")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "not a probe's results; remove it or give another --out"),
        ("[]", "not a probe's results"),
        (
            '{"settings": {"step": 3}, "rows": [], "seconds": {}}',
            "(step: 3 -> 4; decay: None -> 0.999; fresh: None -> False and 12 more)",
        ),
    ],
)
def test_probe_onto_other_results(text, part, trained, tmp_path):
    (tmp_path / "probe.json").write_text(text)
    check_refused(
        linear_probe.main, [f"--workdir={trained}", f"--out={tmp_path / 'probe'}"], str(tmp_path / "probe.json"), part
    )


def test_probe_of_unlabelled_and_of_other_images(damaged, tmp_path):
    for split in ("train", "test"):
        for i in range(20):
            path = tmp_path / "data" / split / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), i, np.uint8)).save(path)
    config = json.loads((damaged / "config.json").read_text())
    config["data"] |= {"name": "folder", "data_dir": str(tmp_path / "nowhere")}
    (damaged / "config.json").write_text(json.dumps(config))
    check_refused(linear_probe.main, [f"--workdir={damaged}"], f"data.data_dir: {tmp_path / 'nowhere'} is not a folder")
    arguments = [f"--workdir={damaged}", f"--data_dir={tmp_path / 'data'}"]
    check_refused(linear_probe.main, arguments, f"data.name: {tmp_path / 'data'} has no labels; a probe needs them")
    for split in ("train", "test"):
        for i in range(20):
            path = tmp_path / "data" / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 12), i, np.uint8)).save(path)
            (tmp_path / "data" / split / f"{i}.png").unlink()
    check_refused(linear_probe.main, arguments, "data.data_dir: images of (8, 12, 1); the run has (8, 8, 1)")
