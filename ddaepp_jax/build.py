"""Where a name in a config becomes an object. Nothing else in the package knows the names."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict
from PIL import Image

from ddaepp_jax import config as schema
from ddaepp_jax.data import augment, datasets, order
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.diffusion import ddpm, samplers
from ddaepp_jax.errors import InputError, first_line
from ddaepp_jax.evaluation import probes
from ddaepp_jax.evaluation.features import extract, make_feature_batch, noisy
from ddaepp_jax.evaluation.heldout_loss import make_heldout_loss
from ddaepp_jax.evaluation.pictures import grid
from ddaepp_jax.evaluation.probes import PROTOCOLS, split_rows
from ddaepp_jax.evaluation.sampling import make_sample_batch, sample_images
from ddaepp_jax.models.self_conditioning import PROJECTIONS
from ddaepp_jax.models.uvit import UViT, block_names
from ddaepp_jax.objectives.denoising import Denoising
from ddaepp_jax.training import clock, optimizer, sharding
from ddaepp_jax.training.loop import Evaluation, Evaluator
from ddaepp_jax.training.source import Source, resident, streamed
from ddaepp_jax.training.step import Learner, TrainState

SAMPLERS: dict[str, dict[str, Callable[..., Array]]] = {"ddpm": {"ddim": samplers.ddim, "ddpm": samplers.ddpm}}


def choose(field: str, name: str, choices: Any) -> Any:
    """``choices[name]`` (or name itself, of a sequence), with an error that lists what there is."""
    if name not in choices:
        raise InputError(f"{field}: no {name!r}; there is {', '.join(choices)}")
    return choices[name] if isinstance(choices, dict) else name


def network(config: ConfigDict, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """The backbone; ``num_classes`` is the data's, used where the model is class-conditional."""
    return choose("model.name", config.model.name, {"uvit": _uvit})(config.model, image_shape, num_classes)


def _uvit(model: ConfigDict, image_shape: tuple[int, int, int], num_classes: int) -> UViT:
    schema.check_names("model.", model, schema.uvit())
    height, width, _ = image_shape
    if model.mlp_ratio <= 0:
        raise InputError(f"model.mlp_ratio: {model.mlp_ratio} is not positive")
    if model.patch_size < 1 or height % model.patch_size or width % model.patch_size:
        raise InputError(f"model.patch_size: {model.patch_size} does not divide images of {height}x{width}")
    if model.width < 1 or model.num_heads < 1 or model.width % (2 * model.num_heads):
        raise InputError(f"model.width: {model.width} is not a multiple of 2 * model.num_heads ({model.num_heads})")
    if model.depth < 2 or model.depth % 2:
        raise InputError(f"model.depth: {model.depth} is not a positive even number (blocks in and out, without mid)")
    names = block_names(model.depth)
    choose("model.bottleneck", model.bottleneck, names)
    if model.self_condition and model.bottleneck == names[-1]:
        raise InputError(f"model.bottleneck: no block follows {names[-1]!r} to be conditioned; choose an earlier one")
    choose("model.pool", model.pool, ("mean", "cls"))
    choose("model.inject", model.inject, ("add", "token"))
    choose("model.projection", model.projection, PROJECTIONS)
    fields = {k: v for k, v in model.items() if k not in ("name", "class_conditional", "attention", "dtype")}
    dtype = jnp.dtype(model.dtype)
    length = (height // model.patch_size) * (width // model.patch_size) + 1 + model.class_conditional
    return UViT(
        **fields,
        num_classes=_labels(model, num_classes),
        attention=attention(model.attention, length, model.num_heads, model.width // model.num_heads, dtype),
        dtype=dtype,
    )


def _labels(model: ConfigDict, num_classes: int) -> int:
    if model.class_conditional and not num_classes:
        raise InputError("model.class_conditional: the data have no labels; set it to False")
    return num_classes if model.class_conditional else 0


def attention(name: str, length: int, heads: int, head_width: int, dtype: jnp.dtype) -> str:
    """The attention implementation: "auto" is cuDNN's on a GPU in bfloat16 where it takes this shape, else XLA's.

    cuDNN refuses some shapes, and only trying tells: forward and backward are run once.
    """
    choose("model.attention", name, ("auto", "xla", "cudnn"))
    if name == "xla" or (name == "auto" and (jax.default_backend() != "gpu" or dtype != jnp.bfloat16)):
        return "xla"
    x = jnp.zeros((1, length, heads, head_width), dtype)
    try:
        product = lambda q: jax.nn.dot_product_attention(q, q, q, implementation="cudnn").astype(jnp.float32).sum()
        jax.block_until_ready(jax.jit(jax.grad(product))(x))
    except Exception as error:
        reason = first_line(error)
        if name == "cudnn":
            raise InputError(f"model.attention: cudnn does not take this shape here ({reason}); use xla") from error
        print(f"attention: cuDNN does not take this shape here, XLA's is used ({reason})")
        return "xla"
    return "cudnn"


def process(config: ConfigDict) -> ddpm.DDPM:
    """The diffusion process."""
    fields = {k: v for k, v in config.diffusion.items() if k != "name"}
    choose("diffusion.time_input", config.diffusion.time_input, ddpm.TIME_INPUTS)
    if config.diffusion.num_steps < 1:
        raise InputError(f"diffusion.num_steps: {config.diffusion.num_steps} is not positive")
    return choose("diffusion.name", config.diffusion.name, {"ddpm": ddpm.DDPM})(**fields)


def sampler(config: ConfigDict, name: str, steps: int, group: str = "") -> Callable[..., Array]:
    """A sampler of the config's process; ``steps`` is checked here, before anything is compiled.

    ``group`` is what errors put before "sampler" and "steps": "sampling." where they come from the config.
    """
    if not 1 <= steps <= config.diffusion.num_steps:
        raise InputError(f"{group}steps: {steps} is not in 1..{config.diffusion.num_steps} (diffusion.num_steps)")
    return choose(f"{group}sampler", name, SAMPLERS[config.diffusion.name])


def dataset(config: ConfigDict, split: str) -> Dataset:
    """The data set of a config; ``split`` is one of its own."""
    data = config.data
    size = tuple(data.size) if any(data.size) else None
    if data.name == "digits":
        return datasets.digits(split)
    if data.name == "folder":
        if not data.data_dir:
            raise InputError("data.data_dir: empty; give the image folder")
        return datasets.folder(data.data_dir, split, size)
    return datasets.tfds(data.name, split, data.data_dir or None, size)


def layers(network: nn.Module, image_shape: tuple[int, int, int]) -> tuple[str, ...]:
    """Names of a network's features, in their order; nothing is computed."""
    x, t = jax.ShapeDtypeStruct((1, *image_shape), np.float32), jax.ShapeDtypeStruct((1,), np.float32)
    return tuple(jax.eval_shape(network.init_with_output, jax.random.key(0), x, t)[0][1])


def objectives(config: ConfigDict, process: Any, null_class: int | None) -> dict[str, tuple[Any, float]]:
    """Objectives by name with their weights; those of weight 0 don't exist for the step."""
    made = {}
    for name, fields in config.objectives.items():
        if fields.weight == 0:
            continue
        choose("objectives", name, ("denoising",))
        if not 0 <= fields.label_dropout <= 1:
            raise InputError(f"objectives.{name}.label_dropout: {fields.label_dropout} is not in 0..1")
        made[name] = (Denoising(process, null_class, fields.label_dropout), fields.weight)
    return made


def total_steps(config: ConfigDict, num_examples: int) -> int:
    """How long the run is, in steps."""
    train = config.train
    total = clock.total_steps(
        steps=train.steps,
        epochs=train.epochs,
        images=train.images,
        batch_size=train.batch_size,
        num_examples=num_examples,
    )
    if total >= order.max_steps(train.batch_size):
        raise InputError(f"train.steps: {total} steps of {train.batch_size} images are more than 2**32 images")
    return total


def learner(config: ConfigDict, image_shape: tuple[int, int, int], num_classes: int, total: int) -> Learner:
    """All parts of the train step."""
    made = network(config, image_shape, num_classes)
    noise = process(config)
    null_class = num_classes if config.model.class_conditional else None
    fields = {k: v for k, v in config.optimizer.items() if k not in ("learning_rate", "schedule", "warmup_steps")}
    choose("optimizer.schedule", config.optimizer.schedule, optimizer.SCHEDULES)
    rate = optimizer.learning_rate(
        config.optimizer.learning_rate, config.optimizer.schedule, config.optimizer.warmup_steps, total
    )
    return Learner(
        network=made,
        process=noise,
        objectives=objectives(config, noise, null_class),
        optimizer=optimizer.make_optimizer(learning_rate=rate, **fields),
        ema_decays=tuple(config.ema.decays),
        ema_ramp=config.ema.ramp,
        seed=config.seed,
    )


def mesh(config: ConfigDict) -> Mesh:
    """The device mesh, checked against the batch."""
    made = sharding.make_mesh((config.mesh.data, config.mesh.fsdp, config.mesh.tensor))
    split = made.shape["data"] * made.shape["fsdp"]
    if config.train.batch_size % split:
        raise InputError(
            f"train.batch_size: {config.train.batch_size} is not a multiple of {split}, the devices that share it"
        )
    return made


def source(config: ConfigDict, data: Dataset, mesh: Mesh) -> Source:
    """Batches: from device memory where the set fits into ``data.device_bytes``, else streamed."""
    if data.nbytes <= config.data.device_bytes:
        return resident(data, config.seed, config.train.batch_size, mesh)
    return streamed(data, config.seed, config.train.batch_size, mesh, config.data.stream_threads)


def prepare(config: ConfigDict) -> Callable[[Array, Array, Array], Array]:
    """Augmentation inside the step: (uint8 images, step, index) -> float32 in [-1, 1]."""

    def prepare(images: Array, step: Array, index: Array) -> Array:
        if config.data.flip:
            images = augment.horizontal_flip(images, config.seed, step, index)
        return augment.to_float(images)

    return prepare


# Evaluations by which the best checkpoint is kept, and the better end of their main value.
RANKS: dict[str, Callable[..., float]] = {"heldout_loss": min, "probe": max}


def evaluators(
    config: ConfigDict, learner: Learner, data: Dataset, held_out: Dataset | None, mesh: Mesh
) -> dict[str, Evaluation]:
    """What is measured in training, by name, on the EMA weights of the first decay; what is never due is not made.

    Held-out loss is measured on ``held_out``; probes on images of ``data`` held out from their heads.
    """
    choose("probe.protocol", config.probe.protocol, PROTOCOLS)
    decay, evals = str(config.ema.decays[0]), config.evals
    measured: dict[str, tuple[Callable[[Any], dict], str]] = {}  # name -> function of the parameters, main value
    if evals.heldout_loss.every and held_out:
        measured["heldout_loss"] = _heldout_loss(config, learner, held_out, mesh), "mean"
    if evals.samples.every:
        measured["samples"] = _samples(config, learner, data, mesh), "samples"
    for name, accuracy in (("probe", _linear_accuracy), ("knn", _knn_accuracy)):
        if evals[name].every and data.num_classes:
            value, labelled = _labelled(config, name, learner, data, mesh)
            score = accuracy(config, data.num_classes)
            measured[name] = (lambda params, v=value, f=labelled, score=score: {v: 100 * score(*f(params))}), value

    def of_state(measure: Callable[[Any], dict]) -> Evaluator:
        def evaluate(state: TrainState) -> dict[str, Any]:
            values = measure(state.ema[decay]["network"])
            return {k if isinstance(v, Image.Image) else f"ema{decay}/{k}": v for k, v in values.items()}

        return evaluate

    return {
        name: Evaluation(evals[name].every, of_state(measure), f"ema{decay}/{value}" if name in RANKS else "")
        for name, (measure, value) in measured.items()
    }


def _heldout_loss(config: ConfigDict, learner: Learner, held_out: Dataset, mesh: Mesh) -> Callable[[Any], dict]:
    fields = config.evals.heldout_loss
    batch = held_out.batch(np.arange(min(fields.images, len(held_out))))
    return make_heldout_loss(
        learner.network,
        learner.process,
        batch["image"],
        batch["label"] if config.model.class_conditional else None,
        levels=learner.process.loss_levels(fields.levels).tolist(),
        seed=config.seed,
        batch_size=config.sampling.batch_size,
        mesh=mesh,
    )


def _samples(config: ConfigDict, learner: Learner, data: Dataset, mesh: Mesh) -> Callable[[Any], dict]:
    sampling, classes = config.sampling, data.num_classes if config.model.class_conditional else 0
    sample_batch = make_sample_batch(
        learner.network,
        learner.process,
        sampler(config, sampling.sampler, sampling.steps),
        image_shape=data.image_shape,
        steps=sampling.steps,
        guidance=sampling.guidance,
        mesh=mesh,
    )
    ids = np.arange(config.evals.samples.n)
    labels = ids % classes if classes else None

    def samples(params: Any) -> dict[str, Any]:
        pieces = sample_images(sample_batch, params, config.seed, ids, labels, sampling.batch_size, mesh)
        return {"samples": grid(np.concatenate(list(pieces)), classes)}

    return samples


Labelled = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # features and labels to learn from, and to be tested


def _labelled(
    config: ConfigDict, name: str, learner: Learner, data: Dataset, mesh: Mesh
) -> tuple[str, Callable[[Any], Labelled]]:
    """The metric's name, and a layer's features as a function of the network's parameters."""
    fields, process = config.evals[name], learner.process
    choose(f"evals.{name}.layer", fields.layer, layers(learner.network, data.image_shape))
    try:
        level = process.as_level(process.probe_levels()[1] if fields.level is None else fields.level)
    except ValueError as error:
        raise InputError(f"evals.{name}.level: {error}") from None
    known, asked = split_rows(len(data), config.probe.held_out or 0.1, config.seed)
    ids = np.concatenate([known[: fields.images], asked[: fields.images]])
    end = min(fields.images, len(known))
    images, labels = data.gather(ids)
    feature_batch = make_feature_batch(noisy(learner.network, process, (fields.layer,)), mesh)
    how = dict(level=level, seed=config.seed, draws=1, batch_size=config.sampling.batch_size, mesh=mesh)

    def labelled(params: Any) -> Labelled:
        pieces = extract(feature_batch, params, lambda rows: images[rows], ids, **how)
        features = np.concatenate([piece[fields.layer] for piece in pieces])
        return features[:end], labels[:end], features[end:], labels[end:]

    return f"{fields.layer}/t{level:g}", labelled


def _linear_accuracy(config: ConfigDict, num_classes: int) -> Callable[..., float]:
    epochs = config.probe.epochs or PROTOCOLS["cached"].epochs
    protocol = dataclasses.replace(PROTOCOLS["cached"], epochs=epochs)

    def accuracy(known: np.ndarray, labels: np.ndarray, asked: np.ndarray, truth: np.ndarray) -> float:
        scales = probes.standard_scale({"": known})
        heads = probes.fit({"": known}, labels, scales, protocol, num_classes=num_classes)
        return float(probes.accuracies(heads, {"": asked}, truth, scales)[""].max())

    return accuracy


def _knn_accuracy(config: ConfigDict, num_classes: int) -> Callable[..., float]:
    return partial(probes.knn_accuracy, k=config.evals.knn.k)
