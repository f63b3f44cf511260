"""Where a name in a config becomes an object. Nothing else in the package knows the names."""

from ddaepp_jax.builders.choice import choose
from ddaepp_jax.builders.data import LATENTS, dataset, described, finish, prepare, source
from ddaepp_jax.builders.diffusion import guidance, noise_level, process, sampler
from ddaepp_jax.builders.extractors import extractor, extractor_directory, extractor_home
from ddaepp_jax.builders.networks import attention, check_trainable, layers, network
from ddaepp_jax.builders.training import learner, mesh, objectives, total_steps

__all__ = [
    "LATENTS",
    "attention",
    "check_trainable",
    "choose",
    "dataset",
    "described",
    "extractor",
    "extractor_directory",
    "extractor_home",
    "finish",
    "guidance",
    "layers",
    "learner",
    "mesh",
    "network",
    "noise_level",
    "objectives",
    "prepare",
    "process",
    "sampler",
    "source",
    "total_steps",
]
