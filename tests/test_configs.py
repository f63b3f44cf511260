"""Every config file: the whole one describes a network that exists, and ``:tiny`` trains and samples."""

from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from ddaepp_jax import build, cli, load, main
from ddaepp_jax import config as schema

FILES = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
SHAPES = {"digits": (8, 8, 1), "cifar10": (32, 32, 3)}
PARAMETERS = {"uvit_digits": 275_726, "uvit_cifar": 44_781_664}


def opened(file: Path, variant: str = "") -> ConfigDict:
    return cli.parse_config([f"--config={file}{variant}"])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_whole_config_is_valid_and_has_its_size(file):
    config = opened(file)
    schema.validate(config)
    shape = SHAPES[config.data.name]
    learner = build.learner(config, shape, 10, total=1000)
    x, t = jax.ShapeDtypeStruct((1, *shape), "float32"), jax.ShapeDtypeStruct((1,), "float32")
    params = jax.eval_shape(learner.network.init, jax.random.key(0), x, t)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PARAMETERS[file.stem]
    build.sampler(config, config.sampling.sampler, config.sampling.steps)
    assert f"--config=configs/{file.name}" in file.read_text()  # its docstring has the command


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_tiny_variant_trains_and_samples(file, tmp_path):
    config = opened(file, ":tiny")
    config.train.steps = 2
    main.train_and_evaluate(config, tmp_path / "run")
    assert load(tmp_path / "run").sample(n=3, steps=2).shape == (3, 8, 8, 1)
