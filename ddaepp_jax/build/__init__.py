"""Builds the objects that a config names; nothing else turns a name into an object."""

from ddaepp_jax.build.data import (
    LATENTS,
    data_description,
    dataset,
    held_out,
    output_conversion,
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
    "output_conversion",
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
