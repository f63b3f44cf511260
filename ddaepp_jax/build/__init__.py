"""Builds the objects that a config names; nothing else turns a name into an object."""

from ddaepp_jax.build.data import (
    LATENTS,
    TAR,
    data_description,
    dataset,
    held_out,
    overlap,
    photometric,
    prepare,
    source,
)
from ddaepp_jax.build.diffusion import PROCESSES, process
from ddaepp_jax.build.networks import (
    NETWORKS,
    attention,
    check_trainable,
    layers,
    network,
    remats,
    unlabelled_network,
)
from ddaepp_jax.build.training import learner, mesh, objectives, total_steps, unreached

__all__ = [
    "LATENTS",
    "NETWORKS",
    "PROCESSES",
    "TAR",
    "attention",
    "check_trainable",
    "data_description",
    "dataset",
    "held_out",
    "layers",
    "learner",
    "mesh",
    "network",
    "objectives",
    "overlap",
    "photometric",
    "prepare",
    "process",
    "remats",
    "source",
    "total_steps",
    "unlabelled_network",
    "unreached",
]
