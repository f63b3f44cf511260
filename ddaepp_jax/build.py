"""Where a name in a config becomes an object. Nothing else in the package knows the names."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddaepp_jax import config as schema
from ddaepp_jax.data import augment, datasets, order
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.diffusion import ddpm, samplers
from ddaepp_jax.errors import InputError, first_line
from ddaepp_jax.models.self_conditioning import PROJECTIONS
from ddaepp_jax.models.uvit import UViT, block_names
from ddaepp_jax.objectives.denoising import Denoising
from ddaepp_jax.training import clock, optimizer, sharding
from ddaepp_jax.training.source import Source, resident, streamed
from ddaepp_jax.training.step import Learner

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
