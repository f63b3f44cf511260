"""Each backbone on eight devices, in the tiny variant of a config."""

import shutil

import jax
import pytest
from helpers.configs import FILES, check_tiny_variant, opened


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uvit_cifar_cond", "unet_digits", "dit_s_cifar"])
def test_tiny_variant_trains_samples_and_probes(name, tmp_path, extractor):
    assert len(jax.devices()) == 8
    (file,) = (file for file in FILES if file.stem == name)
    # The program writes reference statistics into the extractor's directory.
    own_extractor = shutil.copytree(extractor, tmp_path / "classifier")
    check_tiny_variant(opened(file, ":tiny"), tmp_path, own_extractor)
