"""An evaluator and a sampler from outside the package, which a config file registers."""

import json
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.errors import expect_error
from helpers.run import NO_EVALS, rows

from ddaepp_jax import evaluators, load, main, report, sample
from ddaepp_jax.diffusion.samplers import SAMPLERS

EVALUATOR = """
import dataclasses

from ddaepp_jax.base.ranges import OrOff
from ddaepp_jax.reporting.panels import Panel
from ddaepp_jax.training.schedule import Evaluation

@dataclasses.dataclass(frozen=True)
class Settings:
    every: OrOff = 0
    power: int = 1

PANELS = (Panel("Size of a bias", "bias_size/.+", "size"),)
BETTER = max

def make(settings, context):
    def measure(params):
        bias = params["self_conditioning"]["scale"]["bias"]
        return {"bias": float(abs(bias).mean() ** settings.power)}
    return Evaluation(settings.every, measure, "bias")
"""

SAMPLER = """
import jax.numpy as jnp

from ddaepp_jax.diffusion.samplers import register
from ddaepp_jax.diffusion.vp import VariancePreserving

@register(VariancePreserving)
def one_step(process, denoiser, x, keys, steps, clip=True, gain=1.0):
    if gain > 9:
        raise ValueError(f"gain: {gain} is more than 9")
    return gain * denoiser(x, jnp.full(len(x), process.grid(steps)[0]))
"""

CONFIG = """
import bias_size
import one_step
from ddaepp_jax import config, evaluators

evaluators.register(bias_size)

def get_config(variant=""):
    changed = config.get_config("tiny")
    changed.sampling.update(sampler="one_step", steps=2)
    return changed
"""


@pytest.fixture
def config(tmp_path, monkeypatch) -> str:
    """The argument of a config file with both plug-ins; they are forgotten afterwards."""
    files = {"bias_size.py": EVALUATOR, "one_step.py": SAMPLER, "with_plugins.py": CONFIG}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(evaluators, "_MODULES", dict(evaluators._MODULES))
    before = dict(SAMPLERS)
    yield f"--config={tmp_path / 'with_plugins.py'}"
    SAMPLERS.clear()
    SAMPLERS.update(before)
    for name in ("bias_size", "one_step"):
        sys.modules.pop(name, None)


def test_a_run_has_the_plug_ins_of_its_config_file(config, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    off = [f"--config.{name.replace('__', '.')}={every}" for name, every in NO_EVALS.items()]
    toy = ["--config.evals.bias_size.every=2", "--config.evals.bias_size.power=2"]
    main.main([config, f"--workdir={workdir}", *off, *toy])
    measured = {row["step"]: row for row in rows(workdir) if "bias_size/ema0.999/bias" in row}
    assert sorted(measured) == [2, 4]
    run = load(workdir, step="bias_size")
    bias = np.abs(run.params["self_conditioning"]["scale"]["bias"]).mean() ** 2
    assert measured[run.step]["bias_size/ema0.999/bias"] == pytest.approx(bias, rel=1e-5)
    # The config's sampler, then another value of its option.
    drawn = {gain: run.sample(n=2, options={"gain": gain}).astype(int) for gain in (0.0, 1.0)}
    assert (drawn[0.0] == 128).all() and (drawn[1.0] != 128).any()
    assert run.sampling(options={"gain": 0.0}).tag == "one_step2-gain0.0"
    with expect_error("sampling.one_step.gain", "10.0", "9"):
        run.sample(n=2, options={"gain": 10.0})
    config = json.loads((workdir / "config.json").read_text())
    assert config["evals"]["bias_size"] == {"every": 2, "power": 2}
    assert config["sampling"]["one_step"] == {"gain": 1.0}
    sample.main([f"--workdir={workdir}", "--n=2"])
    assert (workdir / "samples" / "step4-ema0.999-one_step2-n2-seed0.png").is_file()


def test_a_process_without_the_plug_ins_opens_and_reports_the_run(config, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    off = [f"--config.{name.replace('__', '.')}={every}" for name, every in NO_EVALS.items()]
    main.main([config, f"--workdir={workdir}", *off, "--config.evals.bias_size.every=2"])
    evaluators._MODULES.pop("bias_size")
    SAMPLERS.pop("one_step")
    report.main([f"--workdir={workdir}"])
    assert "Size of a bias" in (workdir / "report.html").read_text()
    run = load(workdir)
    images = np.zeros((1, 8, 8, 1), np.uint8)
    assert jnp.isfinite(run.features(images, noise_level=11)["bottleneck"]).all()
    with expect_error("sampler", "'one_step'", "ddim"):
        run.sample(n=2)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("evals.bias_size.every=-1", ("evals.bias_size.every", "-1", "0 (off) or more")),
        ("sampling.one_step.gain=10", ("sampling.one_step.gain", "10.0", "9")),
    ],
)
def test_their_fields_are_checked(config, field, words, tmp_path):
    with expect_error(*words):
        main.main([config, f"--workdir={tmp_path / 'run'}", f"--config.{field}"])
    assert not Path(tmp_path / "run").exists()
