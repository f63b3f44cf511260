"""Every config file: the whole one describes a network that exists, and ``:tiny`` trains, samples
and probes.
"""

import re
import shutil

import jax
import pytest
from helpers.configs import FILES, check_tiny_variant, opened

from ddaepp_jax import build
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.config import validation
from ddaepp_jax.sampling.settings import Sampling

DATA = {  # shape of the images, classes
    "digits": ((8, 8, 1), 10),
    "cifar10": ((32, 32, 3), 10),
    "cifar100": ((32, 32, 3), 100),
    "tiny_imagenet": ((64, 64, 3), 200),
    "latents": ((16, 16, 32), 1000),
    "folder": ((16, 16, 3), 10),
    "latent_cifar": ((4, 4, 32), 10),  # by the config's name
}
PARAMETERS = {  # published (our own for others), and with self-conditioning
    "uvit_digits": (267_278, 275_726),
    "unet_digits": (701_345, 726_305),
    "uvit_cifar": (44_255_328, 44_781_664),
    "uvit_cifar_cond": (44_261_472, 44_787_808),
    "uvit_cifar100": (44_255_328, 44_781_664),
    "uvit_tiny_imagenet": (44_292_228, 44_818_564),
    "ablation_cifar": (44_260_448, 44_786_784),
    "ablation_study": (2_542_980, 2_675_076),
    "unet_ddpm_cifar": (35_746_307, 36_141_059),
    "unet_edm_cifar": (35_746_307, 36_141_059),
    "unet_tiny_imagenet": (35_746_307, 36_141_059),
    "unetpp_ddpm_cifar": (56_524_291, 56_919_043),
    "unetpp_edm_cifar": (56_524_291, 56_919_043),
    "unetpp_edm_aug_cifar": (56_525_443, 56_920_195),
    "dit_s_cifar": (32_585_484, 32_881_932),
    "latent_cifar": (7_387_160, 7_519_256),
    "joint_cifar": (7_397_672, 7_529_768),
    "dit_b_imagenet": (129_787_424, 130_970_144),
    "dit_xl_imagenet": (675_256_736, 677_915_552),
    "dit_l_imagenet": (457_127_936, 459_229_184),
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_whole_config_is_valid_and_has_its_size(file):
    config = opened(file)
    validation.validate(config)
    shape, classes = DATA.get(file.stem) or DATA[config.data.name]
    x, t = jax.ShapeDtypeStruct((1, *shape), "float32"), jax.ShapeDtypeStruct((1,), "float32")
    network = build.learner(config, shape, classes, total=1000).network
    plain, conditioned = PARAMETERS[file.stem]
    for self_condition, expected in ((False, plain), (True, conditioned)):
        params = jax.eval_shape(
            network.clone(self_condition=self_condition).init, jax.random.key(0), x, t
        )["params"]
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected
    assert config.model.self_condition
    assert conditioned / plain < 1.013 or plain < 1e7
    Sampling.from_config(config.sampling).make(build.process(config), shape)
    assert f"--config=configs/{file.name}" in file.read_text()  # its docstring has the command


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_tiny_variant_trains_samples_and_probes(file, tmp_path, extractor):
    own = shutil.copytree(extractor, tmp_path / "classifier")  # reference statistics are kept in it
    check_tiny_variant(opened(file, ":tiny"), tmp_path, own)


def test_other_variants_are_valid():
    """Those that a file's ``get_config`` names are those that it has, and each describes a network
    and a sampler.
    """
    for file in FILES:
        (line,) = re.findall(r'(?s)Variants: .*?"""', file.read_text())
        with pytest.raises(InputError) as caught:
            opened(file, ":?")
        named = set(re.findall(r'"(\w+)"', line))
        assert named == set(str(caught.value).partition("it has ")[2].split(", "))
        for variant in named - {"tiny"}:
            config = opened(file, f":{variant}")
            validation.validate(config)
            build.learner(config, *DATA[config.data.name], total=1000)
            shape, _ = DATA[config.data.name]
            Sampling.from_config(config.sampling).make(build.process(config), shape)
