"""The only place where a name in a config becomes an object."""

from ddaepp_jax.base.choice import choose
from ddaepp_jax.build.data import LATENTS, dataset, described, finish, photometric, prepare, source
from ddaepp_jax.build.diffusion import PROCESSES, process
from ddaepp_jax.build.networks import (
    NETWORKS,
    attention,
    check_trainable,
    layers,
    network,
    unfitted,
)
from ddaepp_jax.build.training import learner, mesh, objectives, total_steps

__all__ = [
    "LATENTS",
    "NETWORKS",
    "PROCESSES",
    "attention",
    "check_trainable",
    "choose",
    "dataset",
    "described",
    "finish",
    "layers",
    "learner",
    "mesh",
    "network",
    "objectives",
    "photometric",
    "prepare",
    "process",
    "source",
    "total_steps",
    "unfitted",
]
