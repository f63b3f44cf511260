"""Probes all layers of a network at one noise level."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddaepp_jax.base.finite import check_finite
from ddaepp_jax.base.parallel import local
from ddaepp_jax.base.processes import from_first, in_first
from ddaepp_jax.probing import heads as linear
from ddaepp_jax.probing import neighbours, online, scaling
from ddaepp_jax.probing.diagnostics import PIXELS, diagnose
from ddaepp_jax.probing.features import Extraction, noisy, pixels, views
from ddaepp_jax.probing.protocols import Protocol
from ddaepp_jax.probing.settings import Settings, TrainedNetwork
from ddaepp_jax.probing.splits import Splits
from ddaepp_jax.probing.stored import layer_widths, store

# Number of images that set the scale, if no other use reads more training images.
SCALED_BY = 16384


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Features {layer: (N, C)} with labels (N,)."""

    features: Mapping[str, np.ndarray]
    labels: np.ndarray

    def only(self, layers: Iterable[str]) -> "Labelled":
        """Returns the same images with only these layers."""
        return Labelled({layer: self.features[layer] for layer in layers}, self.labels)


def probe_level(
    trained: TrainedNetwork,
    settings: Settings,
    images: Splits,
    level: int | float | None,
    directory: Path,
    device_bytes: int,
) -> list[dict[str, Any]]:
    """Probes all layers at one noise level.

    All devices of all processes compute features, and train the heads of a fresh protocol. Process
    0 does the rest, on its first device: that takes seconds, and the stored features are its files.

    Args:
      trained: the network.
      settings: how it is probed.
      images: the images of each part.
      level: the noise level; None stands for raw pixels, which need no network.
      directory: directory of the files from which a stopped probe continues.
      device_bytes: most bytes of features that are on a device at once.

    Returns:
      A row for each layer: accuracies in percent, and the values of ``diagnose``.

    Raises:
      InputError: a feature or a head is not finite.
    """
    protocol = settings.protocol
    title = _title(level)
    extraction = Extraction(
        pixels if level is None else noisy(trained.network, trained.process, settings.layers),
        trained.params,
        trained.mesh,
        0 if level is None else trained.process.as_level(level),
        settings.seed,
    )
    augmented = dataclasses.replace(extraction, pad=settings.pad, flip=settings.flip)
    parts = _store_parts(extraction, settings, images, trained.image_shape, directory, title)
    both_views = views(
        augmented, lambda rows: images.read(images.diagnosed[rows]), images.diagnosed
    )
    in_first(lambda: _check_features(parts, both_views, title))
    if protocol.fresh:
        scales = from_first(lambda: _scales(parts["train"], protocol))
        widths = layer_widths(extraction, trained.image_shape)
        heads = online.fit(
            augmented,
            images.read,
            images.parts["train"],
            linear.init(widths, images.num_classes, len(protocol.learning_rates)),
            scales,
            protocol,
            directory / "heads.msgpack",
            f"heads, {title}",
        )
        compute = lambda: _rows(local(heads), parts, scales, settings, level)
    else:
        compute = lambda: _cached_rows(parts, settings, images.num_classes, level, device_bytes)
    return from_first(lambda: [row | diagnose(*both_views[row["layer"]]) for row in compute()])


def _title(level: int | float | None) -> str:
    return PIXELS if level is None else f"level {level:g}"


def _store_parts(
    extraction: Extraction,
    settings: Settings,
    images: Splits,
    image_shape: tuple[int, int, int],
    directory: Path,
    title: str,
) -> dict[str, Labelled] | None:
    """Computes the features of the images by part (train, held_out, test), and stores them on disk.

    Process 0 gets them, and the others None. A stopped computation continues from ``directory``. A
    fresh protocol without neighbours stores only the training images that set the scale.
    """
    protocol = settings.protocol
    part_ids = dict(images.parts)
    if protocol.fresh and not settings.knn:
        # Only the scale needs stored features of training images.
        part_ids["train"] = part_ids["train"][: SCALED_BY if protocol.standardise else 0]
    ids = np.concatenate(list(part_ids.values()))
    stored = store(directory, extraction, images.read, ids, image_shape, f"features, {title}")
    if stored is None:
        return None
    features, labels = stored
    parts = {}
    start = 0
    for name, own_ids in part_ids.items():
        rows = slice(start, start + len(own_ids))
        own_features = {layer: feature[rows] for layer, feature in features.items()}
        parts[name] = Labelled(own_features, labels[rows])
        start = rows.stop
    return parts


def _check_features(
    parts: Mapping[str, Labelled],
    both_views: Mapping[str, tuple[np.ndarray, np.ndarray]],
    title: str,
) -> None:
    """Refuses features that are not finite."""
    for arrays in ({name: part.features for name, part in parts.items()}, both_views):
        check_finite(arrays, f"features at {title}", "leave out this layer or level, or clean data")


def _scales(train: Labelled, protocol: Protocol) -> scaling.Scales:
    return scaling.standard_scale(train.features) if protocol.standardise else {}


def _cached_rows(
    parts: Mapping[str, Labelled],
    settings: Settings,
    num_classes: int,
    level: int | float | None,
    device_bytes: int,
) -> list[dict[str, Any]]:
    """Trains heads on stored features, and returns a row of accuracies for each layer."""
    protocol = settings.protocol
    widths = {layer: feature.shape[1] for layer, feature in parts["train"].features.items()}
    count = sum(len(part.labels) for part in parts.values())
    rows = []
    for layers in group_layers(widths, count, device_bytes):
        group = {name: part.only(layers) for name, part in parts.items()}
        train = group["train"]
        scales = _scales(train, protocol)
        heads = linear.fit(
            train.features,
            train.labels,
            scales,
            protocol,
            num_classes=num_classes,
            seed=settings.seed,
        )
        rows += _rows(heads, group, scales, settings, level)
    return rows


def group_layers(widths: Mapping[str, int], n: int, device_bytes: int) -> list[list[str]]:
    """Groups layers {layer: width} whose features of ``n`` images fit the device together.

    A layer that does not fit is a group of its own.
    """
    groups = [[]]
    used = 0
    for layer, width in widths.items():
        size = 4 * n * width
        if groups[-1] and used + size > device_bytes:
            groups.append([])
            used = 0
        groups[-1].append(layer)
        used += size
    return groups


def _rows(
    heads: linear.Heads,
    parts: Mapping[str, Labelled],
    scales: scaling.Scales,
    settings: Settings,
    level: int | float | None,
) -> list[dict[str, Any]]:
    """Returns a row of accuracies for each layer.

    Raises:
      InputError: a head is not finite.
    """
    title = _title(level)
    check_finite(heads.params, f"learning_rates: heads at {title}", "give smaller ones")
    train = parts["train"]
    tested = {name: part for name, part in parts.items() if name != "train" and len(part.labels)}
    accuracies = {
        name: linear.accuracies(heads, part.features, part.labels, scales)
        for name, part in tested.items()
    }
    chosen_by = next(iter(tested))  # "held_out", or "test" if no image is held out
    rows = []
    for layer in train.features:
        rate = int(np.argmax(accuracies[chosen_by][layer]))
        row = {
            "layer": layer,
            "noise_level": level,
            "learning_rate": settings.protocol.learning_rates[rate],
        }
        for name in tested:
            row[f"linear_{name}"] = 100 * float(accuracies[name][layer][rate])
        if settings.knn:
            for name, part in tested.items():
                row[f"knn_{name}"] = 100 * neighbours.knn_accuracy(
                    train.features[layer],
                    train.labels,
                    part.features[layer],
                    part.labels,
                    settings.knn,
                )
        rows.append(row)
    return rows
