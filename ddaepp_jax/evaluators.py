"""What is measured in training: an evaluator a name in ``config.evals``, on the averaged weights of
the first decay.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from PIL import Image
from tqdm import tqdm

from ddaepp_jax import build
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.data.augment import crop_pad
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.diffusion.process import level_of
from ddaepp_jax.probing import heads as probes
from ddaepp_jax.probing.diagnostics import collapse, diagnose
from ddaepp_jax.probing.features import extract, make_feature_batch, noisy, views
from ddaepp_jax.probing.heads import PROTOCOLS
from ddaepp_jax.reporting.pictures import grid
from ddaepp_jax.sampling.draw import make_sample_batch, sample_images
from ddaepp_jax.scoring import by_name, extractors, image_sets, references, scores
from ddaepp_jax.training.heldout_loss import make_heldout_loss
from ddaepp_jax.training.schedule import Evaluation
from ddaepp_jax.training.step import Learner, TrainState

# Evaluations whose best checkpoint is kept, and the better end of their main value.
RANKS: dict[str, Callable[..., float]] = {"heldout_loss": min, "probe": max, "fid": min}

CONDITION = (
    "self_conditioning"  # the parameters of what a network adds to its condition, in every backbone
)
Measure = Callable[[Any], dict[str, Any]]  # the network's parameters -> values by name


def evaluators(
    config: ConfigDict, learner: Learner, data: Dataset, held_out: Dataset | None, mesh: Mesh
) -> dict[str, Evaluation]:
    """Evaluations by name; what is never due is not made. Nothing is read or compiled before it is
    due.

    Held-out loss is measured on ``held_out``; probes on images of ``data`` that are held out from
    their heads; what features are like on images of ``data``.

    Raises:
      InputError: a field of ``evals`` or ``probe`` is wrong.
    """
    build.choose("probe.protocol", config.probe.protocol, PROTOCOLS)
    decay, evals = str(config.ema.decays[0]), config.evals
    made: dict[str, tuple[Measure, str]] = {}  # with the name of the main value
    if evals.heldout_loss.every and held_out:
        made["heldout_loss"] = _heldout_loss(config, learner, held_out, mesh), "mean"
    if evals.samples.every:
        made["samples"] = _samples(config, learner, data, mesh), "samples"
    if evals.fid.every:
        made["fid"] = _scores(config, learner, data, mesh)
    if evals.features.every:
        made["features"] = _features(config, learner, data, mesh), ""
    for name, accuracy in (("probe", _linear_accuracy), ("knn", _knn_accuracy)):
        if evals[name].every and data.num_classes:
            made[name] = _probed(
                config, name, accuracy(config, data.num_classes), learner, data, mesh
            )

    def of_state(measure: Measure) -> Callable[[TrainState], dict[str, Any]]:
        def evaluate(state: TrainState) -> dict[str, Any]:
            values = measure(state.ema[decay]["network"])
            return {
                k if isinstance(v, Image.Image) else f"ema{decay}/{k}": v for k, v in values.items()
            }

        return evaluate

    return {
        name: Evaluation(
            evals[name].every, of_state(measure), f"ema{decay}/{main}" if name in RANKS else ""
        )
        for name, (measure, main) in made.items()
    }


def _heldout_loss(config: ConfigDict, learner: Learner, held_out: Dataset, mesh: Mesh) -> Measure:
    """The loss by noise level; where the network conditions itself, also its mean with the
    condition switched off.
    """
    fields = config.evals.heldout_loss
    batch = held_out.batch(np.arange(min(fields.images, len(held_out))))
    losses = make_heldout_loss(
        learner.network,
        learner.process,
        batch["image"],
        batch["label"] if config.model.class_conditional else None,
        levels=learner.process.loss_levels(fields.levels).tolist(),
        seed=config.seed,
        batch_size=config.sampling.batch_size,
        mesh=mesh,
    )
    if not config.model.self_condition:
        return losses

    def on_and_off(params: Any) -> dict[str, float]:
        values = losses(params)
        zeros = jax.tree.map(lambda leaf: 0 * leaf, params[CONDITION])
        values["condition_off"] = losses({**params, CONDITION: zeros})["mean"]
        if jax.process_index() == 0:
            on, off = values["mean"], values["condition_off"]
            tqdm.write(
                f"held-out loss {on:.4f}, with the network's condition on itself switched off {off:.4f}"
            )
        return values

    return on_and_off


# (network's parameters, number of images) -> pieces (b, H, W, C) uint8
Draw = Callable[[Any, int], Iterator[np.ndarray]]


def _draw(config: ConfigDict, learner: Learner, data: Dataset, mesh: Mesh) -> Draw:
    """Samples as the config asks for them, of the classes in turn where there are some."""
    sampling, classes = config.sampling, data.num_classes if config.model.class_conditional else 0
    sample_batch = make_sample_batch(
        learner.network,
        learner.process,
        build.sampler(config, sampling.sampler, sampling.steps),
        image_shape=data.image_shape,
        steps=sampling.steps,
        guidance=build.guidance(
            data.image_shape,
            sampling.guidance,
            sampling.guidance_interval,
            sampling.guidance_channels,
            group="sampling.",
        ),
        mesh=mesh,
    )

    def draw(params: Any, n: int) -> Iterator[np.ndarray]:
        ids = np.arange(n)
        labels = ids % classes if classes else None
        return sample_images(
            sample_batch, params, config.seed, ids, labels, sampling.batch_size, mesh
        )

    return draw


def _samples(config: ConfigDict, learner: Learner, data: Dataset, mesh: Mesh) -> Measure:
    draw, columns = (
        _draw(config, learner, data, mesh),
        data.num_classes if config.model.class_conditional else 0,
    )
    return lambda params: {
        "samples": grid(np.concatenate(list(draw(params, config.evals.samples.n))), columns)
    }


def _scores(config: ConfigDict, learner: Learner, data: Dataset, mesh: Mesh) -> tuple[Measure, str]:
    """All scores of samples against the training split; the Frechet distance ranks."""
    fields, sampling = config.evals.fid, config.sampling
    images = cache(lambda: image_sets.of_dataset(data, config.data.split))
    directory = by_name.extractor_directory(
        fields.extractor, config
    )  # refused before training, not in its middle
    kind = extractors.kind_of(directory) if extractors.there(directory) else fields.extractor
    opened = cache(lambda: by_name.extractor(fields.extractor, config, mesh))
    if jax.process_count() > 1 and not (
        extractors.there(directory) and references.file_of(images(), opened()).exists()
    ):  # several processes would write one file
        raise InputError(
            f"evals.fid: {directory} has no statistics of the data yet; run ddaepp_jax.fid once, by itself"
        )
    reference = cache(lambda: references.of(images(), opened(), sampling.batch_size, mesh))
    draw = _draw(config, learner, data, mesh)
    feature_batch = cache(lambda: make_feature_batch(opened().features, mesh))

    def named(values: dict[str, float]) -> dict[str, float]:
        return scores.named(
            values, fields.n, kind, scores.sampler_tag(sampling, {}), config.data.split
        )

    def measure(params: Any) -> dict[str, float]:
        samples = np.concatenate(list(draw(params, fields.n)))
        how = dict(level=np.int32(0), seed=0, batch_size=sampling.batch_size, mesh=mesh)
        pieces = list(
            extract(
                feature_batch(),
                opened().params,
                lambda rows: samples[rows],
                np.arange(fields.n),
                **how,
            )
        )
        found = {layer: np.concatenate([piece[layer] for piece in pieces]) for layer in pieces[0]}
        return named(scores.scores(found, reference()))

    return measure, next(iter(named({"fd": 0.0})))


def _where(config: ConfigDict, name: str, learner: Learner, data: Dataset) -> tuple[np.number, str]:
    """The noise level at which ``evals.NAME`` looks at its layer, and what a value's name says of
    both.
    """
    fields, process = config.evals[name], learner.process
    build.choose(
        f"evals.{name}.layer", fields.layer, build.layers(learner.network, data.image_shape)
    )
    level = level_of(process, fields.level, f"evals.{name}.level")
    return level, f"{fields.layer}/{process.unit}{level:g}"


def _features(config: ConfigDict, learner: Learner, data: Dataset, mesh: Mesh) -> Measure:
    """What a layer's features are like; that they have collapsed is printed."""
    fields = config.evals.features
    level, where = _where(config, "features", learner, data)
    ids = probes.split_rows(len(data), 0, config.seed)[0][: fields.images]
    read = cache(lambda: data.gather(ids)[0])
    layer = noisy(learner.network, learner.process, (fields.layer,))
    how = dict(pad=crop_pad(data.image_shape), flip=config.data.flip, level=level, seed=config.seed)
    how |= dict(batch_size=config.sampling.batch_size, mesh=mesh)

    def measure(params: Any) -> dict[str, float]:
        values = diagnose(
            *views(layer, params, lambda rows: read()[rows], ids, **how)[fields.layer]
        )
        if jax.process_index() == 0 and (warning := collapse(values)):
            tqdm.write(f"warning: {where}: {warning}")
        return {f"{where}/{name}": value for name, value in values.items()}

    return measure


# (features and labels of images to learn from, and of images to be tested) -> accuracy in 0..1
Accuracy = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], float]


def _probed(
    config: ConfigDict, name: str, accuracy: Accuracy, learner: Learner, data: Dataset, mesh: Mesh
) -> tuple[Measure, str]:
    """One layer at one noise level; the value's name says which."""
    fields = config.evals[name]
    level, value = _where(config, name, learner, data)
    known, asked = (
        rows[: fields.images] for rows in probes.split_rows(len(data), HELD_OUT, config.seed)
    )
    ids, end = np.concatenate([known, asked]), len(known)
    read = cache(lambda: data.gather(ids))
    feature_batch = make_feature_batch(
        noisy(learner.network, learner.process, (fields.layer,)), mesh
    )
    how = dict(level=level, seed=config.seed, batch_size=config.sampling.batch_size, mesh=mesh)

    def probed(params: Any) -> dict[str, float]:
        images, labels = read()
        pieces = extract(feature_batch, params, lambda rows: images[rows], ids, **how)
        features = np.concatenate([piece[fields.layer] for piece in pieces])
        return {value: 100 * accuracy(features[:end], labels[:end], features[end:], labels[end:])}

    return probed, value


HELD_OUT = 0.1  # of the training split, from the heads of ``probe`` and the neighbours of ``knn``


def _linear_accuracy(config: ConfigDict, num_classes: int) -> Accuracy:
    """Of the `cached` protocol's heads, by the learning rate that does best."""
    epochs = config.probe.epochs or PROTOCOLS["cached"].epochs
    protocol = dataclasses.replace(PROTOCOLS["cached"], epochs=epochs)

    def accuracy(
        known: np.ndarray, labels: np.ndarray, asked: np.ndarray, truth: np.ndarray
    ) -> float:
        scales = probes.standard_scale({"": known})
        heads = probes.fit({"": known}, labels, scales, protocol, num_classes=num_classes)
        return float(probes.accuracies(heads, {"": asked}, truth, scales)[""].max())

    return accuracy


def _knn_accuracy(config: ConfigDict, num_classes: int) -> Accuracy:
    del num_classes
    return partial(probes.knn_accuracy, k=config.evals.knn.k)
