"""Where a name in a config becomes an object. Nothing else in the package knows the names."""

from ddaepp_jax.base.choice import choose
from ddaepp_jax.build.data import LATENTS, dataset, described, finish, prepare, source
from ddaepp_jax.build.diffusion import guidance, process, sampler
from ddaepp_jax.build.networks import attention, check_trainable, layers, network
from ddaepp_jax.build.training import learner, mesh, objectives, total_steps

__all__ = [
    "LATENTS",
    "attention",
    "check_trainable",
    "choose",
    "dataset",
    "described",
    "finish",
    "guidance",
    "layers",
    "learner",
    "mesh",
    "network",
    "objectives",
    "prepare",
    "process",
    "sampler",
    "source",
    "total_steps",
]
