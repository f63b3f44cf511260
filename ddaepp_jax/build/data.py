"""Builds data sets, their batches, and the augmentation in the step from ``config.data``."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddaepp_jax.autoencoders import stored as autoencoders
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.paths import local_path
from ddaepp_jax.data import augment, datasets, folders, geometric, latents, lightningdit_cache, tars
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.data.encoding import Encoding
from ddaepp_jax.data.photometric import Photometric
from ddaepp_jax.data.views import View, two_views
from ddaepp_jax.training.source import Source, resident, streamed

LATENTS = "latents"  # ``data.name`` of latents; all other data sets are images
TAR = "tar"  # that of shards of images


def dataset(config: ConfigDict, split: str, download: bool = True) -> Dataset:
    """Returns a split of the config's data set.

    Args:
      split: name of one of the data set's splits.
      download: whether a missing data set may be downloaded.

    Raises:
      InputError: there is no such data set, or no such split.
    """
    data = config.data
    if data.name == LATENTS:
        return _latents(config, split)
    if data.name == "digits":
        return datasets.digits(split)
    if data.name in ("folder", TAR):
        if not data.data_dir:
            raise InputError(
                "data.data_dir: empty; give the image folder, or that of the tar files"
            )
        opened = folders.folder if data.name == "folder" else tars.tars
        return opened(_data_dir(config), split, _size(config))
    return datasets.tfds(data.name, split, _data_dir(config), _size(config), download)


def _latents(config: ConfigDict, split: str) -> Dataset:
    """Opens latents, which have to be of the autoencoder that the config names."""
    data = config.data
    if not data.data_dir:
        raise InputError(
            "data.data_dir: empty; give the folder of latents that ddaepp_jax.cache_latents wrote"
        )
    directory = local_path(data.data_dir, "data.data_dir")
    if (foreign := lightningdit_cache.lightningdit_cache(directory, split)) is not None:
        return foreign
    opened = latents.latents(directory, split)
    theirs = opened.encoding.origin["autoencoder"]
    ours = autoencoders.hash_of(data.autoencoder) if data.autoencoder else None
    if ours not in (None, theirs["hash"]):
        raise InputError(
            f"data.autoencoder: {data.autoencoder} has the hash {ours[:8]}, and the latents in "
            f"{directory} are by {theirs['name']}, {theirs['hash'][:8]}; give that one"
        )
    return opened


def held_out(config: ConfigDict, train: Dataset) -> Dataset:
    """Returns the split ``data.eval_split``, on which a run is evaluated.

    Args:
      config: the run's config.
      train: the training split.

    Raises:
      InputError: there is no such split, or its images or classes are not like the training
        split's.
    """
    try:
        held_out = dataset(config, config.data.eval_split)
    except InputError as error:
        raise InputError(str(error).replace("data.split", "data.eval_split")) from error
    if held_out.image_shape != train.image_shape:
        raise InputError(
            f"data.eval_split: images of {held_out.split!r} have shape {held_out.image_shape}, "
            f"those of {train.split!r} {train.image_shape}; set data.size, or convert their colours"
        )
    if held_out.class_names != train.class_names:
        raise InputError(
            f"data.eval_split: {held_out.split!r} and {train.split!r} have other classes "
            f"({held_out.num_classes} and {train.num_classes}); give a split with the same"
        )
    if train.encoding is None:
        return held_out
    ours, theirs = (each.encoding.origin["autoencoder"] for each in (train, held_out))
    if ours.get("hash") != theirs.get("hash"):
        raise InputError(
            f"data.eval_split: latents of {held_out.split!r} are by the autoencoder "
            f"{theirs['name']}, those of {train.split!r} by {ours['name']}; make them by one"
        )
    # Each split's header has statistics of its own, and a network knows those of its training.
    normalisation = train.encoding.normalisation
    encoding = dataclasses.replace(held_out.encoding, normalisation=normalisation)
    return dataclasses.replace(held_out, encoding=encoding)


def overlap(train: Dataset, held_out: Dataset) -> str:
    """Returns the line that says that training images are evaluated on; "" if none are."""
    shared = train.shared(held_out)
    if not shared:
        return ""
    return (
        f"data.eval_split: {shared} of the {len(held_out)} images of {held_out.split!r} are "
        f"training images of {train.split!r}; give a split without them"
    )


def data_description(config: ConfigDict) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """Returns the images' shape (H, W, C) and the names of the classes.

    A data set of TensorFlow Datasets need not be on disk.
    """
    data = config.data
    if data.name in ("digits", "folder", TAR, LATENTS):
        images = dataset(config, data.split)
        return images.image_shape, images.class_names
    return datasets.tfds_described(data.name, _data_dir(config), _size(config))


def _data_dir(config: ConfigDict) -> str | None:
    """Returns the folder of the data; None stands for TFDS's own."""
    text = config.data.data_dir
    return str(local_path(text, "data.data_dir")) if text else None


def _size(config: ConfigDict) -> tuple[int, int] | None:
    return tuple(config.data.size) if any(config.data.size) else None


def source(config: ConfigDict, data: Dataset, mesh: Mesh) -> Source:
    """Returns the source of batches.

    A data set that fits into ``data.device_bytes`` lives in device memory; others are streamed.
    """
    seed, batch_size = config.seed, config.train.batch_size
    if data.nbytes > config.data.device_bytes:
        return streamed(data, seed, batch_size, mesh, config.data.stream_threads)
    # On CPUs, XLA runs the gradients of convolutions in a loop many times slower (jax-ml/jax, issue
    # 12868).
    looped = config.model.name != "unet" or mesh.devices.flat[0].platform != "cpu"
    return resident(data, seed, batch_size, mesh, looped)


def photometric(config: ConfigDict) -> Photometric | None:
    """Returns the photometric augmentation of the views, or None if it is not used.

    Raises:
      ValueError: a field is wrong; the message begins with its name.
    """
    fields = config.objectives.distillation.photometric.to_dict()
    use = fields.pop("use")
    augmentation = Photometric(**fields)
    return augmentation if use else None


def prepare(
    config: ConfigDict, encoding: Encoding | None = None
) -> Callable[[Array, Array, Array], dict[str, Any]]:
    """Returns the augmentation that runs inside the step.

    It maps (uint8 images (B, H, W, C), step, index (B,)) to a batch: "image", float32 in [-1, 1];
    "augment_label", a condition of the network, if images get more than flips; and "views" if an
    objective compares two. Of latents, it draws "image" by the stored moments.

    Args:
      config: the run's config.
      encoding: form of the data's latents; None: images.
    """
    if encoding is not None:
        return _prepare_latents(config, encoding)
    data, seed = config.data, config.seed
    distillation = config.objectives.distillation
    views_use = dict(
        geometric=distillation.geometric, photometric=photometric(config), flip=data.flip
    )

    def views(images: Array, step: Array, index: Array) -> tuple:
        pair = two_views(images, seed, step, index, **views_use)
        if config.model.augment_dim > 0:
            return tuple(pair)
        return tuple(view._replace(augment_label=None) for view in pair)

    def prepare(images: Array, step: Array, index: Array) -> dict[str, Any]:
        batch = {}
        if distillation.weight:
            batch["views"] = views(images, step, index)
        if data.flip:
            images = augment.horizontal_flip(images, seed, step, index)
        batch["image"] = augment.to_float(images)
        if data.augment:
            batch["image"], batch["augment_label"] = geometric.augment(
                batch["image"], seed, step, index, data.augment
            )
        return batch

    return prepare


def _prepare_latents(
    config: ConfigDict, encoding: Encoding
) -> Callable[[Array, Array, Array], dict[str, Any]]:
    """Returns the function that draws latents; two views of an image are two draws of a mirror."""
    data, seed = config.data, config.seed

    def prepare(records: Array, step: Array, index: Array) -> dict[str, Any]:
        draw = partial(encoding.draw, records, seed, step, index)
        batch = {"image": draw(flip=data.flip)}
        if config.objectives.distillation.weight:
            views = [draw(flip=True, view=f"_{number}") for number in range(2)]
            batch["views"] = tuple(View(image, None) for image in views)
        return batch

    return prepare
