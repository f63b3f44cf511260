"""Where a name in a config becomes an object. Nothing else in the package knows the names."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddaepp_jax import config as schema
from ddaepp_jax import validation
from ddaepp_jax.data import augment, datasets, geometric, order
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.data.views import two_views
from ddaepp_jax.diffusion import flow_samplers, samplers
from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.diffusion.edm import EDM
from ddaepp_jax.diffusion.flow import Flow
from ddaepp_jax.diffusion.guidance import Guidance
from ddaepp_jax.diffusion.process import Process
from ddaepp_jax.diffusion.vp import VP
from ddaepp_jax.errors import InputError, first_line
from ddaepp_jax.evaluation import classifier, extractors
from ddaepp_jax.evaluation.extractors import Extractor
from ddaepp_jax.models import dit, heads, unet, uvit
from ddaepp_jax.models.dit import DiT
from ddaepp_jax.models.inception import RESIZING
from ddaepp_jax.models.self_conditioning import PROJECTIONS
from ddaepp_jax.models.unet import UNet
from ddaepp_jax.models.uvit import UViT
from ddaepp_jax.objectives.denoising import Denoising
from ddaepp_jax.objectives.distillation import TEACHER_SCHEDULES, Distillation
from ddaepp_jax.training import clock, optimizer, sharding
from ddaepp_jax.training.source import Source, resident, streamed
from ddaepp_jax.training.step import Learner

LATENTS = "latents"  # data that are not images

PROCESSES: dict[str, type] = {"ddpm": DDPM, "vp": VP, "edm": EDM, "flow": Flow}
_VARIANCE_PRESERVING = {"ddim": samplers.ddim, "ddpm": samplers.ddpm, "dpmpp_2m": samplers.dpmpp_2m}
SAMPLERS: dict[str, dict[str, Callable[..., Array]]] = {
    "ddpm": _VARIANCE_PRESERVING,
    "vp": _VARIANCE_PRESERVING,
    "edm": {"heun": samplers.heun},
    "flow": {
        "euler": flow_samplers.euler,
        "heun_flow": flow_samplers.heun_flow,
        "euler_maruyama": flow_samplers.euler_maruyama,
    },
}


def choose(field: str, name: str, choices: Any) -> Any:
    """``choices[name]`` (or name itself, of a sequence), with an error that lists what there is."""
    if name not in choices:
        raise InputError(f"{field}: no {name!r}; there is {', '.join(choices)}")
    return choices[name] if isinstance(choices, dict) else name


def network(config: ConfigDict, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """The backbone; ``num_classes`` is the data's, used where the model is class-conditional."""
    model = config.model
    make = choose("model.name", model.name, {"uvit": _uvit, "unet": _unet, "dit": _dit})
    validation.check_names("model.", model, schema.MODELS[model.name]())
    return make(model, image_shape, num_classes)


def _uvit(model: ConfigDict, image_shape: tuple[int, int, int], num_classes: int) -> UViT:
    height, width, _ = image_shape
    _check_patches(model, height, width)
    if model.width < 1 or model.num_heads < 1 or model.width % (2 * model.num_heads):
        raise InputError(f"model.width: {model.width} is not a multiple of 2 * model.num_heads ({model.num_heads})")
    if model.depth < 2 or model.depth % 2:
        raise InputError(f"model.depth: {model.depth} is not a positive even number (blocks in and out, without mid)")
    names = uvit.block_names(model.depth)
    _check_self_conditioning(model, names, names[-1])
    choose("model.pool", model.pool, ("mean", "cls"))
    choose("model.inject", model.inject, ("add", "token"))
    extras = 1 + model.class_conditional + (model.augment_dim > 0) + (model.pool == "cls")
    length = (height // model.patch_size) * (width // model.patch_size) + extras
    return UViT(**_fields(model, num_classes, [(length, model.num_heads, model.width // model.num_heads)]))


def _dit(model: ConfigDict, image_shape: tuple[int, int, int], num_classes: int) -> DiT:
    height, width, _ = image_shape
    _check_patches(model, height, width)
    heads, each = model.num_heads, 4 if model.rope else 1
    if model.width < 1 or heads < 1 or model.width % (each * heads) or model.width % 4:
        raise InputError(
            f"model.width: {model.width} is not a multiple of 4, or not of {each} * model.num_heads ({heads})"
        )
    if model.depth < 1:
        raise InputError(f"model.depth: {model.depth} is not positive")
    _check_self_conditioning(model, dit.block_names(model.depth))
    length = (height // model.patch_size) * (width // model.patch_size)
    return DiT(**_fields(model, num_classes, [(length, heads, model.width // heads)]))


def _check_patches(model: ConfigDict, height: int, width: int) -> None:
    if model.mlp_ratio <= 0:
        raise InputError(f"model.mlp_ratio: {model.mlp_ratio} is not positive")
    if model.patch_size < 1 or height % model.patch_size or width % model.patch_size:
        raise InputError(f"model.patch_size: {model.patch_size} does not divide images of {height}x{width}")


def _unet(model: ConfigDict, image_shape: tuple[int, int, int], num_classes: int) -> UNet:
    height, width, _ = image_shape
    levels = len(model.mults)
    if not levels or min(model.mults) < 1 or len(model.attend) != levels:
        raise InputError(f"model.attend, mults: {model.attend}, {model.mults}: give one value each a resolution")
    if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
        raise InputError(f"model.mults: {levels} resolutions halve images of {height}x{width} to fractions; give fewer")
    if model.channels < 32 or model.channels % 32:
        raise InputError(f"model.channels: {model.channels} is not a multiple of 32, the groups of its norms")
    if model.blocks < 1:
        raise InputError(f"model.blocks: {model.blocks} is not positive")
    if not 0 <= model.dropout < 1:
        raise InputError(f"model.dropout: {model.dropout} is not in [0, 1)")
    # Where there is attention: its resolutions, and the middle, which has the lowest.
    attending = [i for i, attends in enumerate(model.attend) if attends] + [levels - 1]
    widths = {i: model.channels * model.mults[i] for i in attending}
    if model.head_channels < 0 or any(model.head_channels and w % model.head_channels for w in widths.values()):
        raise InputError(f"model.head_channels: {model.head_channels} does not divide {sorted(widths.values())}")
    names = unet.block_names(model.mults, model.blocks)
    _check_self_conditioning(model, names, names[-1])
    head_widths = {i: model.head_channels or w for i, w in widths.items()}
    products = [((height >> i) * (width >> i), widths[i] // head_widths[i], head_widths[i]) for i in widths]
    return UNet(**_fields(model, num_classes, products))


def _check_self_conditioning(model: ConfigDict, names: Sequence[str], last: str = "") -> None:
    """``last``: a block that nothing follows that could be conditioned."""
    choose("model.bottleneck", model.bottleneck, names)
    if model.self_condition and model.bottleneck == last:
        raise InputError(f"model.bottleneck: no block follows {last!r} to be conditioned; choose an earlier one")
    choose("model.projection", model.projection, PROJECTIONS)


def _fields(model: ConfigDict, num_classes: int, products: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
    """A module's arguments; ``products`` are the (length, heads, head width) of its attention."""
    fields = {k: v for k, v in model.items() if k not in ("name", "class_conditional")}
    if model.augment_dim < 0:
        raise InputError(f"model.augment_dim: {model.augment_dim} is negative; 0 is none")
    dtype = jnp.dtype(model.dtype)
    taken = {attention(model.attention, *product, dtype) for product in products}
    return fields | {
        "num_classes": _labels(model, num_classes),
        "attention": "xla" if "xla" in taken else "cudnn",
        "dtype": dtype,
    }


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


def process(config: ConfigDict) -> Process:
    """The diffusion process."""
    diffusion = config.diffusion
    made = choose("diffusion.name", diffusion.name, PROCESSES)
    validation.check_names("diffusion.", diffusion, schema.PROCESSES[diffusion.name]())
    choose("diffusion.time_input", diffusion.time_input, made.TIME_INPUTS)
    try:
        return made(**{k: v for k, v in diffusion.items() if k != "name"})
    except ValueError as error:
        raise InputError(f"diffusion.{error}") from None


def sampler(
    config: ConfigDict, name: str, steps: int, options: Mapping[str, Any] | None = None, group: str = ""
) -> Callable[..., Array]:
    """A sampler of the config's process with its options; all is checked here, before anything is compiled.

    Args:
      options: instead of the config's ``sampling.clip`` and ``sampling.NAME``.
      group: what errors put before "sampler" and "steps": "sampling." where they come from the config.
    """
    chosen = choose(f"{group}sampler", name, SAMPLERS[config.diffusion.name])
    made = process(config)
    try:
        made.grid(steps)
    except ValueError as error:
        raise InputError(f"{group}steps: {error}") from None
    fields = {"clip": config.sampling.clip, **config.sampling.get(name, {})}
    for option, value in (options or {}).items():
        wanted = type(choose("options", option, fields))
        if not isinstance(value, (int, float) if wanted is float else wanted):
            raise InputError(f"options: {option}={value!r} is not a {wanted.__name__}")
    fields |= options or {}
    for option, value in fields.items():
        if isinstance(value, (int, float)) and not value >= 0:
            raise InputError(f"sampling.{name}.{option}: {value} is negative")
        if option == "shift" and not 0 < value < float("inf"):
            raise InputError(f"sampling.{name}.shift: {value} is not a positive number; 1 makes even steps")
    if "table" in fields:
        tables = {"standard": None} | ({"ddae": made.ddae_alpha_bar} if isinstance(made, DDPM) else {})
        fields["table"] = choose("sampling.ddim.table", fields["table"], tables)
    return functools.partial(chosen, **fields)


def guidance(
    image_shape: tuple[int, int, int],
    scale: float,
    interval: Sequence[float],
    channels: int,
    autoguidance: float = 1.0,
    group: str = "",
) -> Guidance:
    """How samples are guided; see ``Guidance``.

    Args:
      group: what errors put before the names of fields: "sampling." where they come from the config.
    """
    try:
        made = Guidance(scale, tuple(interval), channels, autoguidance)
    except ValueError as error:
        raise InputError(f"{group}guidance_{error}") from None
    if channels > image_shape[-1]:
        raise InputError(f"{group}guidance_channels: {channels}, but images have {image_shape[-1]}; 0 guides all")
    return made


def dataset(config: ConfigDict, split: str) -> Dataset:
    """The data set of a config; ``split`` is one of its own."""
    data = config.data
    size = tuple(data.size) if any(data.size) else None
    if data.name == LATENTS:
        raise InputError("data.name: latents are an autoencoder's, and this version has none yet: it trains on pixels")
    if data.name == "digits":
        return datasets.digits(split)
    if data.name == "folder":
        if not data.data_dir:
            raise InputError("data.data_dir: empty; give the image folder")
        return datasets.folder(data.data_dir, split, size)
    return datasets.tfds(data.name, split, data.data_dir or None, size)


def described(config: ConfigDict) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """(H, W, C) of the images and the classes' names; a set of TensorFlow Datasets need not be there for that."""
    data = config.data
    if data.name in ("digits", "folder", LATENTS):
        read = dataset(config, data.split)
        return read.image_shape, read.class_names
    return datasets.tfds_described(data.name, data.data_dir or None, tuple(data.size) if any(data.size) else None)


def extractor(name: str, config: ConfigDict, mesh: Mesh, resizing: str | None = None) -> Extractor:
    """The network that images are scored by.

    Args:
      name: "inception"; "classifier", of the config's data, which is trained where it isn't there yet; or a directory
        that holds an extractor.
      resizing: of Inception's images; "pytorch" by default.
    """
    directory = extractor_directory(name, config)
    if resizing is not None:
        choose("resizing", resizing, tuple(RESIZING))
    if name == "classifier" and not extractors.there(directory):
        known, asked = (dataset(config, split) for split in (config.data.split, config.data.eval_split))
        classifier.make(directory, known, asked, mesh)
    return extractors.load(directory, mesh, resizing)


def extractor_home(name: str) -> Path:
    """Where extractors are that were not given a directory."""
    return Path.home() / ".cache" / "ddaepp_jax" / "extractors" / name


def extractor_directory(name: str, config: ConfigDict) -> Path:
    """Where an extractor is, or will be once it is trained.

    Raises:
      InputError: it is not there, and won't be without the user.
    """
    data = config.data
    if name == "classifier":
        shape, names = described(config)
        if not names:
            raise InputError(f"extractor: {data.name} has no labels for a classifier to learn; give another extractor")
        which = str(Path(data.data_dir).resolve()) if data.name == "folder" else data.name
        size = "x".join(map(str, shape))
        return extractor_home(re.sub(r"[^A-Za-z0-9.]+", "_", f"classifier {which} {data.split} {size}").strip("_"))
    directory = extractor_home(name) if name == "inception" else Path(name)
    if not extractors.there(directory):
        mend = "python -m ddaepp_jax.convert --kind=inception-fid fetches them; or take extractor=classifier"
        raise InputError(
            f"extractor: Inception's weights are not in {directory}; {mend}"
            if name == "inception"
            else f"extractor: no {name!r}; there is inception, classifier, or the directory of one"
        )
    return directory


def layers(network: nn.Module, image_shape: tuple[int, int, int]) -> tuple[str, ...]:
    """Names of a network's features, in their order; nothing is computed."""
    x, t = jax.ShapeDtypeStruct((1, *image_shape), np.float32), jax.ShapeDtypeStruct((1,), np.float32)
    return tuple(jax.eval_shape(network.init_with_output, jax.random.key(0), x, t)[0][1])


def objectives(
    config: ConfigDict, process: Process, null_class: int | None, total: int
) -> dict[str, tuple[Any, optax.Schedule]]:
    """Objectives by name with their weights by the step; those of weight 0 don't exist for the step."""
    denoising = Denoising(process, null_class, config.objectives.denoising.label_dropout)
    make = {"denoising": lambda: denoising, "distillation": lambda: _distillation(config, denoising, total)}
    return {
        name: (make[name](), _weight(fields.weight, fields.schedule))
        for name, fields in config.objectives.items()
        if fields.weight
    }


def _weight(weight: float, points: Sequence[tuple[float, float]]) -> optax.Schedule:
    if not points:
        return optax.constant_schedule(weight)
    steps, factors = zip(*points, strict=True)
    return lambda step: weight * jnp.interp(step, jnp.array(steps, jnp.float32), jnp.array(factors, jnp.float32))


def _distillation(config: ConfigDict, denoising: Denoising, total: int) -> Distillation:
    fields, process, group = config.objectives.distillation, denoising.process, "objectives.distillation"
    choose(f"{group}.norm", fields.norm, heads.NORMS)
    schedule = choose(f"{group}.teacher_schedule", fields.teacher_schedule, TEACHER_SCHEDULES)
    return Distillation(
        denoising=denoising,
        shared=fields.share_denoising,
        student_level=noise_level(process, fields.student_level, f"{group}.student_level"),
        teacher_level=noise_level(process, fields.teacher_level, f"{group}.teacher_level"),
        symmetric=fields.symmetric,
        projector=heads.Head(fields.projector_depth, fields.hidden, fields.embedding, fields.norm),
        predictor=heads.Head(fields.predictor_depth, fields.hidden, fields.embedding, fields.norm),
        temperature=fields.temperature,
        teacher_decay=schedule(fields.teacher_decay, total),
    )


def noise_level(process: Process, level: float | None, field: str) -> np.number:
    """A config's noise level in the type that the process takes; None is the middle of its probe grid."""
    grid = process.probe_levels()
    try:
        return process.as_level(grid[len(grid) // 2] if level is None else level)
    except ValueError as error:
        raise InputError(f"{field}: {error}") from None


def check_trainable(config: ConfigDict) -> None:
    """Refuse a network that can be sampled from but not trained."""
    if config.model.get("learn_sigma"):
        raise InputError(
            "model.learn_sigma: a variance is learned by the variational term, which is not here; set it to False "
            "(converted with --options=learn_sigma=False, such weights leave the variance out)"
        )


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
    if isinstance(made, DiT) and fields["weight_decay"] and fields["decay_mask"] == "all":
        raise InputError("optimizer.decay_mask: 'all' decays DiT's fixed positions too; set it to 'matrices'")
    choose("optimizer.schedule", config.optimizer.schedule, optimizer.SCHEDULES)
    rate = optimizer.learning_rate(
        config.optimizer.learning_rate, config.optimizer.schedule, config.optimizer.warmup_steps, total
    )
    return Learner(
        network=made,
        process=noise,
        objectives=objectives(config, noise, null_class, total),
        optimizer=optimizer.make_optimizer(learning_rate=rate, **fields),
        ema_decays=tuple(config.ema.decays),
        ema_ramp=config.ema.ramp,
        ema_sigma_rels=tuple(config.ema.sigma_rel),
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
        # On CPUs, XLA runs the gradients of convolutions in a loop many times slower (jax-ml/jax, issue 12868).
        looped = config.model.name != "unet" or mesh.devices.flat[0].platform != "cpu"
        return resident(data, config.seed, config.train.batch_size, mesh, looped)
    return streamed(data, config.seed, config.train.batch_size, mesh, config.data.stream_threads)


def finish(config: ConfigDict) -> Callable[[Array], Array]:
    """What samples become: images in [-1, 1] uint8; latents stay what they are."""
    return (lambda latents: latents) if config.data.name == LATENTS else augment.to_uint8


def prepare(config: ConfigDict) -> Callable[[Array, Array, Array], dict[str, Any]]:
    """Augmentation inside the step: (uint8 images, step, index) -> the batch's "image", float32 in [-1, 1].

    And "augment_label", where there is more than flips, for the network to know; and "views", where an objective
    compares some.
    """
    data, seed, distillation = config.data, config.seed, config.objectives.distillation

    def prepare(images: Array, step: Array, index: Array) -> dict[str, Any]:
        batch = {}
        if distillation.weight:
            how = dict(geometric=distillation.geometric, photometric=schema.photometric(config), flip=data.flip)
            views = two_views(images, seed, step, index, **how)
            told = config.model.augment_dim > 0
            batch["views"] = tuple(view if told else view._replace(augment_label=None) for view in views)
        if data.flip:
            images = augment.horizontal_flip(images, seed, step, index)
        batch["image"] = augment.to_float(images)
        if data.augment:
            batch["image"], batch["augment_label"] = geometric.augment(batch["image"], seed, step, index, data.augment)
        return batch

    return prepare
