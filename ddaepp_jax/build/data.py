"""``config.data`` becomes images: whole sets, batches of them, and what a step makes of a batch."""

from collections.abc import Callable
from typing import Any

from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddaepp_jax import config as schema
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.data import augment, datasets, geometric
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.data.views import two_views
from ddaepp_jax.training.source import Source, resident, streamed

LATENTS = "latents"  # data that are not images


def dataset(config: ConfigDict, split: str) -> Dataset:
    """The data set of a config; ``split`` is one of its own."""
    data = config.data
    size = tuple(data.size) if any(data.size) else None
    if data.name == LATENTS:
        raise InputError(
            "data.name: latents are an autoencoder's, and this version has none yet: it trains on pixels"
        )
    if data.name == "digits":
        return datasets.digits(split)
    if data.name == "folder":
        if not data.data_dir:
            raise InputError("data.data_dir: empty; give the image folder")
        return datasets.folder(data.data_dir, split, size)
    return datasets.tfds(data.name, split, data.data_dir or None, size)


def described(config: ConfigDict) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """(H, W, C) of the images and the classes' names; a set of TensorFlow Datasets need not be
    there for that.
    """
    data = config.data
    if data.name in ("digits", "folder", LATENTS):
        read = dataset(config, data.split)
        return read.image_shape, read.class_names
    return datasets.tfds_described(
        data.name, data.data_dir or None, tuple(data.size) if any(data.size) else None
    )


def source(config: ConfigDict, data: Dataset, mesh: Mesh) -> Source:
    """Batches: from device memory where the set fits into ``data.device_bytes``, else streamed."""
    if data.nbytes <= config.data.device_bytes:
        # On CPUs, XLA runs the gradients of convolutions in a loop many times slower (jax-ml/jax,
        # issue 12868).
        looped = config.model.name != "unet" or mesh.devices.flat[0].platform != "cpu"
        return resident(data, config.seed, config.train.batch_size, mesh, looped)
    return streamed(data, config.seed, config.train.batch_size, mesh, config.data.stream_threads)


def finish(config: ConfigDict) -> Callable[[Array], Array]:
    """What samples become: images in [-1, 1] uint8; latents stay what they are."""
    return (lambda latents: latents) if config.data.name == LATENTS else augment.to_uint8


def prepare(config: ConfigDict) -> Callable[[Array, Array, Array], dict[str, Any]]:
    """Augmentation inside the step: (uint8 images, step, index) -> the batch's "image", float32 in
    [-1, 1].

    And "augment_label", where there is more than flips, for the network to know; and "views", where
    an objective compares some.
    """
    data, seed, distillation = config.data, config.seed, config.objectives.distillation

    def prepare(images: Array, step: Array, index: Array) -> dict[str, Any]:
        batch = {}
        if distillation.weight:
            how = dict(
                geometric=distillation.geometric,
                photometric=schema.photometric(config),
                flip=data.flip,
            )
            views = two_views(images, seed, step, index, **how)
            told = config.model.augment_dim > 0
            batch["views"] = tuple(
                view if told else view._replace(augment_label=None) for view in views
            )
        if data.flip:
            images = augment.horizontal_flip(images, seed, step, index)
        batch["image"] = augment.to_float(images)
        if data.augment:
            batch["image"], batch["augment_label"] = geometric.augment(
                batch["image"], seed, step, index, data.augment
            )
        return batch

    return prepare
