"""Dry runs for slices of TPUs that need not be present, and for data that need not be there yet.

libtpu compiles the train program for the slice. Nothing is run.
"""

import os
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddaepp_jax import build
from ddaepp_jax import config as schema
from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.data.encoding import DTYPE, Encoding
from ddaepp_jax.data.normalisation import Normalisation
from ddaepp_jax.run.describe import describe
from ddaepp_jax.run.fitting import compile_fitting
from ddaepp_jax.training.clock import peak_flops
from ddaepp_jax.training.program import Program

IMAGENET = 1_281_167  # training images
LATENTS = {"va-vae": (16, 16, 32), "sd-vae": (32, 32, 4)}  # of images of 256 pixels
UTILISATION = 0.4  # of the peak rate, which the cost of a run assumes


def dry_run(config: ConfigDict, topology: str) -> None:
    """Prints what ``--dry_run`` prints, for a slice of TPUs, and what the run would cost there.

    Args:
      config: the run's config. Where it names no latents, ImageNet's are assumed.
      topology: the slice, e.g. "v5e:16x16".

    Raises:
      InputError: libtpu is not installed, there is no such slice, a field is wrong, or the step
        does not fit.
    """
    schema.validate(config)
    build.check_trainable(config)
    mesh = build.mesh(config, _chips(topology))
    data = _data(config)
    total = build.total_steps(config, len(data))
    learner = build.learner(config, data.image_shape, data.num_classes, total)
    program, form = compile_fitting(config, learner, data, mesh)
    describe(config, program, data, total)
    print(f"fits with model.remat={form.remat}, train.accumulate={form.parts}")
    print(_cost(program, mesh, total))


def _chips(topology: str) -> Sequence[jax.Device]:
    """Returns the chips of a slice, for which programs can be compiled here."""
    # libtpu would ask Google's servers for a slice that is not there.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    try:
        chips = topologies.get_topology_desc(topology, "tpu").devices
    except Exception as error:  # The plugin raises errors of several types.
        raise InputError(
            f"--topology: cannot compile for {topology!r} ({first_line(error)}); give a slice such "
            "as v5e:4x4, and install libtpu"
        ) from None
    # A program for chips that are not present cannot be read out of JAX's cache.
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    return chips


def _data(config: ConfigDict) -> Dataset:
    """Opens the training split; ImageNet's latents are assumed where none are named."""
    data = config.data
    if data.name != build.LATENTS or data.data_dir:
        return build.dataset(config, data.split, download=False)
    if data.autoencoder not in LATENTS:
        raise InputError(
            f"data.data_dir: empty, and the latents of {data.autoencoder or 'no autoencoder'} are "
            "not known; give the folder of latents"
        )
    print("data.data_dir is empty: the latents of ImageNet at 256 pixels are assumed")
    normalisation = Normalisation((0.0,), (1.0,))
    names = tuple(map(str, range(1000)))
    return Dataset(
        name="ImageNet's latents",
        split="train",
        image_shape=LATENTS[data.autoencoder],
        num_classes=len(names),
        class_names=names,
        length=IMAGENET,
        read=_nothing,
        dtype=DTYPE,
        encoding=Encoding(LATENTS[data.autoencoder], True, normalisation),
    )


def _nothing(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    raise AssertionError(f"{len(rows)} images that do not exist were read")


def _cost(program: Program, mesh: Mesh, total: int) -> str:
    """Says how long the run would take, in hours of chips."""
    kind = mesh.devices.flat[0].device_kind
    seconds = total * program.flops / (UTILISATION * peak_flops(kind))
    hours = seconds * mesh.size / 3600
    return (
        f"cost: {hours:,.0f} chip-hours at {UTILISATION:.0%} of the peak, which are "
        f"{seconds / 3600:,.1f} hours of {mesh.size} chips ({kind}), without evaluations and saves"
    )
