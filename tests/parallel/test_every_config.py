"""The tiny variant of every config on eight devices."""

import shutil

import jax
import pytest
from helpers.configs import FILES, check_tiny_variant, opened


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_tiny_variant_trains_samples_and_probes(file, tmp_path, extractor):
    assert len(jax.devices()) == 8
    own = shutil.copytree(extractor, tmp_path / "classifier")  # reference statistics are kept in it
    check_tiny_variant(opened(file, ":tiny"), tmp_path, own)
