"""The config files, and the check of each one's tiny variant."""

from pathlib import Path

from ml_collections import ConfigDict

from ddaepp_jax import linear_probe, load
from ddaepp_jax.config.overrides import parse_config
from ddaepp_jax.run.train import train_and_evaluate

FILES = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


def opened(file: Path, variant: str = "") -> ConfigDict:
    """Reads a config file; ``variant`` begins with a colon."""
    return parse_config([f"--config={file}{variant}"])


def check_tiny_variant(config: ConfigDict, directory: Path, extractor: Path) -> None:
    """Trains for two steps with an evaluation of each kind, samples, and probes."""
    config.train.steps = 2
    config.evals.fid.extractor = str(extractor)
    for evaluation in config.evals.values():
        evaluation.every = 2
    train_and_evaluate(config, directory / "run")
    run = load(directory / "run")
    assert run.sample(n=3, steps=2).shape == (3, 8, 8, 1)
    chosen = linear_probe.settings(
        run, layers=["bottleneck"], levels=run.process.probe_levels()[:1], epochs=1, knn=0
    )
    best = linear_probe.probe(run, chosen, directory / "run" / "probe" / "first")["best"]
    assert best["layer"] == "bottleneck" and f"/{run.process.unit}" in best["metric"]
