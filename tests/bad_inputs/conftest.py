"""A trained run for the tests of bad inputs."""

import shutil
from pathlib import Path

import pytest
from refusals import TINY

from ddaepp_jax import main


@pytest.fixture(scope="package")
def trained(tmp_path_factory):
    """A trained run; tests that damage it copy it."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    main.main([TINY, f"--workdir={workdir}"])
    return workdir


@pytest.fixture
def damaged(trained, tmp_path):
    """A copy of the trained run."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))
