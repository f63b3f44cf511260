"""Eight devices give the same numbers, whether one, two or four processes hold them.

No set of images is a multiple of eight.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.pixels import check_pixels_equal
from helpers.processes import SECONDS, run_together, start_together
from helpers.run import NO_EVALS, command, rows
from helpers.scores import differ

pytestmark = pytest.mark.slow

LAYOUTS = [(2, 4), (4, 2)]  # processes and devices of each, compared with (1, 8)
FIELDS = NO_EVALS | dict(
    train__steps=4,
    train__checkpoint_every=4,
    train__steps_per_dispatch=2,
    train__log_every=1,
    optimizer__warmup_steps=0,
    data__device_bytes=0,
    evals__heldout_loss__every=4,
    evals__heldout_loss__images=45,
    evals__heldout_loss__levels=2,
    evals__knn__every=4,
    evals__knn__images=45,
    evals__probe__every=4,
    evals__probe__images=45,
    evals__probe__epochs=2,
    evals__features__every=4,
    evals__features__images=45,
    evals__fid__every=4,
    evals__fid__n=21,
)
# Features agree to 2e-5, so that at most two images of a set change their class.
ACCURACY = dict(linear_test=297, knn_test=297, linear_held_out=150, knn_held_out=150)


@pytest.fixture(scope="module")
def trained(make_once, extractor):
    """Returns ``(processes, devices) -> run directory``, which is trained once."""

    def trained(processes: int, devices: int) -> Path:
        def train(directory: Path) -> None:
            fields = FIELDS | dict(evals__fid__extractor=copied(extractor, directory, "scorer"))
            line = command("main", fields, f"--workdir={directory / 'run'}")
            run_together(line, processes, devices)

        return make_once(f"trained-by-{processes}", train) / "run"

    return trained


def copied(extractor: Path, directory: Path, name: str) -> Path:
    """Copies an extractor, so that statistics are computed anew."""
    copy = directory / name
    copy.mkdir(parents=True)
    for file in extractor.glob("*.*"):
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def both(program: str, layout: tuple[int, int], out: Path, *arguments: object) -> list[Path]:
    """Runs a program as one process and by a layout; returns the ``--out`` of each."""
    outs = []
    for processes, devices in ((1, 8), layout):
        outs.append(out / str(processes))
        run_together(command(program, None, *arguments, f"--out={outs[-1]}"), processes, devices)
    return outs


def check_rows(one, other):
    assert len(one) == len(other) > 0
    for ours, theirs in zip(one, other, strict=True):
        assert ours["layer"] == theirs["layer"] and ours["noise_level"] == theirs["noise_level"]
        for name in ("alignment", "uniformity", "effective_rank", "spread"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3)
        for name, images in ACCURACY.items():
            assert abs(ours[name] - theirs[name]) <= 200 / images + 1e-9


@pytest.mark.parametrize("layout", LAYOUTS)
def test_training_and_its_evaluations(trained, layout):
    one, other = (rows(trained(*each)) for each in ((1, 8), layout))
    losses = [[row["loss"] for row in each if "loss" in row] for each in (one, other)]
    assert len(losses[0]) == 4
    np.testing.assert_allclose(*losses, rtol=1e-5)
    numbers = [{name: row[name] for row in each for name in row} for each in (one, other)]
    assert numbers[0].keys() == numbers[1].keys()
    measured = {name for name in numbers[0] if "/ema" in name}
    assert {name.split("/")[0] for name in measured} == {
        "heldout_loss",
        "knn",
        "probe",
        "features",
        "fid",
    }
    for name in measured:
        tolerance = dict(abs=200 / 45 + 1e-9) if name.startswith(("knn", "probe")) else {}
        assert numbers[1][name] == pytest.approx(numbers[0][name], **{"rel": 1e-3} | tolerance)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_samples(trained, layout, tmp_path):
    arguments = [f"--workdir={trained(1, 8)}", "--n=45", "--steps=3", "--batch_size=16"]
    images = [
        np.load(f"{out}.npz")["images"] for out in both("sample", layout, tmp_path, *arguments)
    ]
    check_pixels_equal(*images)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        f"{processes}.{suffix}" for processes in (1, layout[0]) for suffix in ("json", "npz", "png")
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("protocol", ["cached", "online"])
def test_probes(trained, layout, protocol, tmp_path):
    arguments = [f"--workdir={trained(1, 8)}", f"--protocol={protocol}", "--levels=11"]
    arguments += ["--layers=mid,out_1", "--epochs=3", "--batch_size=264", "--learning_rates=0.01"]
    files = [Path(f"{out}.json") for out in both("linear_probe", layout, tmp_path, *arguments)]
    check_rows(*(json.loads(file.read_text())["rows"] for file in files))
    assert not list(tmp_path.glob("*-partial"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scores(trained, extractor, layout, tmp_path):
    """Of given images to 1e-6; of samples, whose pixels may round differently, to 1e-3."""
    scored = {}
    for processes, devices in ((1, 8), layout):
        out, wrn = tmp_path / str(processes), copied(extractor, tmp_path, f"wrn{processes}")
        for name, arguments in {
            "images": ["--images=digits:test", "--reference=digits:train", "--n=61"],
            "run": [f"--workdir={trained(1, 8)}", "--n=37", "--steps=3", "--npz"],
        }.items():
            line = command("fid", None, *arguments, f"--extractor={wrn}", "--batch_size=24")
            run_together([*line, f"--out={out / name}"], processes, devices)
            scored[name, processes] = json.loads((out / f"{name}.json").read_text())
    for name, bound in (("images", 1e-6), ("run", 1e-3)):
        (one,), (other,) = (scored[name, each]["rows"] for each in (1, layout[0]))
        assert differ(one, other) < bound
    images = [np.load(tmp_path / str(each) / "run-seed0.npz")["arr_0"] for each in (1, layout[0])]
    check_pixels_equal(*images)


NOISE = """
import sys

import jax
import jax.numpy as jnp
import numpy as np

from ddaepp_jax.base import parallel
from ddaepp_jax.base.processes import in_first
from ddaepp_jax.cli.arguments import Parser, add_processes, start
from ddaepp_jax.diffusion.noise import image_keys, image_noise

parser = Parser("noise", "")
parser.add_argument("out")
add_processes(parser)
args = parser.parse_args(sys.argv[1:])
start(args)
mesh = parallel.make_mesh((-1, 1, 1))

@jax.jit
def noise(ids):
    return image_noise(image_keys(jnp.uint32(3), "sample", ids), (8, 8, 1))

pieces = []
for rows, count in parallel.batches(45, 16, mesh):
    (ids,) = parallel.place(mesh, rows)
    pieces.append(np.asarray(parallel.on_host(noise(ids)))[:count])
in_first(lambda: np.save(args.out, np.concatenate(pieces)))
"""


def test_start_noise_is_the_same_bit_for_bit(tmp_path):
    noise = []
    for processes, devices in ((1, 8), *LAYOUTS):
        file = tmp_path / f"{processes}.npy"
        run_together([sys.executable, "-c", NOISE, str(file)], processes, devices)
        noise.append(np.load(file))
    assert noise[0].shape == (45, 8, 8, 1)
    assert (noise[0] == noise[1]).all() and (noise[0] == noise[2]).all()


# ---- signals ----

TERMINATED = "terminated; the same command continues from what was saved\n"


def terminated(line: list[str], processes: int, errors: Path, seen: Callable[[], bool]) -> None:
    """Starts a program, and ends it by SIGTERM to all of its processes once ``seen()`` is true.

    Each has to end with exit code 143 and one line beside its progress bars, in the file
    ``errors``.
    """
    with errors.open("w") as stderr:
        started = start_together(line, processes, 2, stdout=subprocess.DEVNULL, stderr=stderr)
    try:
        deadline = time.monotonic() + SECONDS
        while not seen():
            assert all(process.poll() is None for process in started), errors.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for process in started:
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(SECONDS) for process in started]
    finally:
        for process in started:
            process.kill()
    text = errors.read_text()
    assert codes == [143] * processes, text
    assert text.count(TERMINATED) == processes
    others = re.split("[\r\n]", text.replace(TERMINATED, ""))
    assert not [row for row in others if row and "|" not in row], text


def begun(file: Path) -> Callable[[], bool]:
    """Returns a function that tells whether something was written to an .npy file of zeros."""

    def begun() -> bool:
        try:
            return bool(np.load(file).any())
        except (OSError, EOFError, ValueError):  # It is being made.
            return False

    return begun


def whole_rows(directory: Path) -> int:
    """Returns how many rows of stored features are whole."""
    return json.loads((directory / "whole.json").read_text())["rows"]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_probe_is_terminated_while_it_caches_and_while_it_trains_heads(
    trained, tmp_path, processes
):
    line = command("linear_probe", None, f"--workdir={trained(1, 8)}", "--protocol=online")
    line += ["--levels=11", "--layers=mid,out_1", "--epochs=12", "--batch_size=264"]
    run_together([*line, f"--out={tmp_path / 'undisturbed'}"], processes, 2)
    line += [f"--out={tmp_path / 'stopped'}"]
    level = tmp_path / "stopped-partial" / "level-11"

    terminated(line, processes, tmp_path / "caching", begun(level / "labels.npy"))
    assert 0 < whole_rows(level) <= 1797  # all, where it was quick
    assert len(json.loads((tmp_path / "stopped.json").read_text())["rows"]) == 1  # of pixels

    errors = tmp_path / "heads"
    terminated(line, processes, errors, lambda: "heads, level 11" in errors.read_text())
    assert whole_rows(level) == 1797 and (level / "heads.msgpack").exists()

    run_together(line, processes, 2)
    check_rows(
        *(
            json.loads((tmp_path / f"{name}.json").read_text())["rows"]
            for name in ("stopped", "undisturbed")
        )
    )
    assert not (tmp_path / "stopped-partial").exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_scoring_is_terminated_in_the_middle_of_a_seed(trained, extractor, tmp_path, processes):
    """The samples that were drawn are on the disk, with their features."""
    line = command("fid", None, f"--workdir={trained(1, 8)}", "--n=300", "--steps=3", "--npz")
    line += ["--reference=test", "--batch_size=8"]
    line += [f"--extractor={copied(extractor, tmp_path, 'wrn')}"]
    run_together([*line, f"--out={tmp_path / 'undisturbed'}"], processes, 2)
    line += [f"--out={tmp_path / 'stopped'}"]
    partial = tmp_path / "stopped-partial" / "seed0-partial"

    terminated(line, processes, tmp_path / "stderr", begun(partial / "images.npy"))
    count = whole_rows(partial / "features")
    assert 0 < count < 300
    drawn = np.load(partial / "images.npy")[:count]
    run_together(line, processes, 2)
    one, other = (
        json.loads((tmp_path / f"{name}.json").read_text())["rows"][0]
        for name in ("stopped", "undisturbed")
    )
    assert differ(one, other) < 1e-6
    images = [
        np.load(tmp_path / f"{name}-seed0.npz")["arr_0"] for name in ("stopped", "undisturbed")
    ]
    assert (images[0] == images[1]).all() and (images[0][:count] == drawn).all()
