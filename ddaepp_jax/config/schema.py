"""The groups of a config: their fields with defaults, types, ranges and choices.

A group is a frozen dataclass. pydantic checks the values; a ``description`` completes the sentence
"it should be ..." where pydantic's own words would not say enough. The fields of the network and of
the process are those of their own classes, which ``model.name`` and ``diffusion.name`` choose.
Rules between fields are in ``rules.py``.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_type_hints

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder
from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from ddaepp_jax import build, evaluators
from ddaepp_jax.base.ranges import FloatOrOff, OrOff, Probability, Share
from ddaepp_jax.data import photometric
from ddaepp_jax.diffusion.samplers import SAMPLERS
from ddaepp_jax.models.remat import POLICIES
from ddaepp_jax.training.ema import WIDTHS

# A weight is multiplied by factors that are linear between the points (step, factor); (): by 1.
Schedule = Annotated[
    tuple[tuple[NonNegativeFloat, NonNegativeFloat], ...],
    Field(
        description="((step, factor), ..) with rising steps, e.g. ((0, 0.0), (5000, 1.0)), or ()"
    ),
]

Remat = Annotated[
    Literal[*POLICIES, "auto"],
    Field(description=f"one of {', '.join(POLICIES)}, auto (block is what True was)"),
]


def make_group(name: str, fields: Sequence[tuple[str, Any, Any]], base: type | None = None) -> type:
    """Returns a group of (name, type, default) fields."""
    return dataclasses.make_dataclass(name, fields, bases=(base,) if base else (), frozen=True)


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regex: {error}") from None
    return pattern


@dataclasses.dataclass(frozen=True)
class Data:
    """The data that the network is trained on."""

    # "digits", "folder", "tar", "latents", or any data set of tensorflow-datasets
    name: str = "digits"
    data_dir: str = ""  # the folder itself, or a TFDS directory ("": TFDS's own default)
    split: str = "train"
    eval_split: str = "test"  # never trained on
    # name or directory of the autoencoder that decodes samples of latents ("": the latents' own)
    autoencoder: str = ""
    # height and width to crop to; (0, 0): as stored
    size: Annotated[
        tuple[int, int], Field(description="(height, width), two positive whole numbers, or (0, 0)")
    ] = (0, 0)
    flip: bool = False  # random horizontal flips
    # probability of each of EDM's geometric transformations; needs model.augment_dim=9
    augment: Probability = 0.0
    # a data set of at most this many bytes lives in device memory; others are streamed
    # (another program, whose sums may differ in the last bit)
    device_bytes: NonNegativeInt = 4 * 2**30
    stream_threads: PositiveInt = 4


@dataclasses.dataclass(frozen=True)
class Train:
    """The length of the run, its batches, and the checkpoints that it keeps."""

    steps: PositiveInt | None = 7500  # exactly one of steps, epochs, images
    epochs: PositiveFloat | None = None
    images: PositiveInt | None = None
    batch_size: PositiveInt = 64
    # parts that a step's batch is taken in, one after the other, to save memory; 0: as few as fit
    accumulate: NonNegativeInt = 1
    steps_per_dispatch: PositiveInt = 50
    log_every: PositiveInt = 100
    checkpoint_every: PositiveInt = 2500
    keep_checkpoints: PositiveInt = 2
    # write SHA-256 of the files of each checkpoint beside them, and verify them when it is read
    checksums: bool = True


@dataclasses.dataclass(frozen=True)
class Denoising:
    """The diffusion loss."""

    weight: FloatOrOff = 1.0
    schedule: Schedule = ()
    label_dropout: Probability = 0.1


@dataclasses.dataclass(frozen=True)
class Photometric(photometric.Photometric):
    """Crops, colours and blur of the views; see ``ddaepp_jax.data.photometric.Photometric``."""

    use: bool = False


@dataclasses.dataclass(frozen=True)
class Distillation:
    """Contrastive self-distillation; see ``ddaepp_jax.objectives.distillation``."""

    weight: FloatOrOff = 0.0
    schedule: Schedule = ()
    # probability of each of EDM's transformations of a view; the network is told of them where
    # model.augment_dim=9
    geometric: Probability = 0.12
    photometric: Photometric = Photometric()
    # the student shares the denoising pass, at its noise levels, instead of running another pass
    share_denoising: bool = False
    student_level: float | None = None  # None: the middle of the process's probe grid
    teacher_level: float | None = None
    symmetric: bool = False  # both views go both ways: twice the passes
    teacher_decay: Annotated[float, Field(ge=0, le=1)] = 0.99
    teacher_schedule: Literal["constant", "cosine"] = "cosine"  # cosine: to 1 at the last step
    temperature: PositiveFloat = 0.2
    projector_depth: OrOff = 3  # linear layers; 0: no projector
    predictor_depth: OrOff = 2
    hidden: PositiveInt = 512  # MoCo v3: 4096
    embedding: PositiveInt = 128  # MoCo v3: 256
    norm: Literal["batch", "none"] = "batch"


@dataclasses.dataclass(frozen=True)
class Objectives:
    """The objectives; their weighted sum is minimised, and weight 0 turns one off."""

    denoising: Denoising = Denoising()
    distillation: Distillation = Distillation()


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The update rule and its learning rate."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: PositiveFloat = 3e-3
    schedule: Literal["constant", "cosine"] = "cosine"  # cosine: to zero at the last step
    warmup_steps: OrOff = 300
    b1: Share = 0.9
    b2: Share = 0.99
    weight_decay: FloatOrOff = 0.03
    # "matrices": biases, norms and embeddings do not decay
    decay_mask: Literal["all", "matrices"] = "all"
    clip_norm: FloatOrOff = 1.0  # largest norm of the gradient; 0: no clipping


@dataclasses.dataclass(frozen=True)
class Ema:
    """Averages of the weights; evaluations use the first of ``decays``."""

    decays: Annotated[
        tuple[Annotated[float, Field(gt=0, lt=1)], ...],
        Field(min_length=1, description="a tuple of one or more numbers in (0, 1), e.g. (0.9999,)"),
    ] = (0.999,)
    ramp: bool = True
    # relative widths of power-function averages
    sigma_rel: Annotated[
        tuple[Annotated[float, Field(ge=WIDTHS[0], lt=WIDTHS[1])], ...],
        Field(
            description="a tuple of different numbers, "
            f"from {WIDTHS[0]} to below {WIDTHS[1]:.4f}, e.g. (0.05, 0.1)"
        ),
    ] = ()
    # steps between snapshots of two or more of these averages, from which averages of other widths
    # are made after training
    snapshot_every: OrOff = 0


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Axes of the device mesh; -1 takes the devices that the others leave."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    # (regex over parameter paths, axes by dimension); the first rule that matches counts. ("fsdp",)
    # alone shards a kernel's input channels, or else the largest dimension that the axis divides;
    # parameters that match no rule are replicated. Biases and scales are small, and moving them
    # costs more than keeping them.
    rules: Annotated[
        tuple[tuple[Annotated[str, AfterValidator(_compiles)], tuple[str, ...]], ...],
        Field(description="a tuple of (regex, axes), e.g. (('.*', ('fsdp',)),)"),
    ] = (("kernel|embed", ("fsdp",)),)


@dataclasses.dataclass(frozen=True)
class Probe:
    """The defaults of the program ``linear_probe``."""

    protocol: Literal["online", "cached", "imagenet"] = "cached"
    # 100 suits the digits' 1,500 images; None: the protocol's own number
    epochs: PositiveInt | None = 100
    held_out: Share = 0.1  # the part of the training split that chooses layer and level
    knn: OrOff = 20  # neighbours; 0: no kNN probe


@dataclasses.dataclass(frozen=True)
class _Sampling:
    """Settings of sampling.

    The options of each sampler are in a subgroup with the sampler's name.
    """

    sampler: str = "ddpm"
    steps: int = 100
    guidance: float = 1.0  # scale of classifier-free guidance; 1: none
    batch_size: PositiveInt = 64
    # (low, high): guide only at these noise levels; (): at every level
    guidance_interval: tuple[Any, ...] = ()
    guidance_channels: int = 0  # guide only the first N channels; 0: all
    clip: bool = True  # clip the estimated clean image to [-1, 1] at every evaluation


@dataclasses.dataclass(frozen=True)
class Logging:
    """Loggers of the metrics beside ``metrics.jsonl``."""

    tensorboard: bool = True
    wandb: bool = False


@dataclasses.dataclass(frozen=True)
class Profile:
    """The steps that a profiler traces; 0 steps: none."""

    start: NonNegativeInt = 0
    steps: NonNegativeInt = 0


def _options(name: str, options: Mapping[str, Any]) -> type:
    return make_group(
        name, [(option, type(default), default) for option, default in options.items()]
    )


def _nested(name: str, groups: Mapping[str, type], base: type | None = None) -> type:
    """Makes a group whose fields are other groups with their defaults, after those of ``base``."""
    return make_group(name, [(inner, group, group()) for inner, group in groups.items()], base)


def _sampling() -> type:
    """Returns the group ``config.sampling``, with the options of all registered samplers."""
    groups = {}
    for name, sampler in SAMPLERS.items():
        options = {option: v for option, v in sampler.options.items() if option != "clip"}
        if options:
            groups[name] = _options(name, options)
    return _nested("Sampling", groups, base=_Sampling)


def _network(name: str, module: type) -> type:
    """Returns the group ``config.model`` of a network: its fields, and those that a config adds."""
    changes = dict(
        name=(Literal[name], name),
        bottleneck=(str, module.bottleneck),
        self_condition=(bool, True),
        # auto: cuDNN's on a GPU in bfloat16 if it takes the shape, else XLA's
        attention=(Literal["auto", "xla", "cudnn", "blocked"], "auto"),
        # what the backward pass computes again, to save memory; auto: as little as must be
        remat=(Remat, "none"),
        # dtype of the computation; parameters are float32
        dtype=(Literal["float32", "bfloat16"], "float32"),
    )
    own = {field.name: (field.type, field.default) for field in dataclasses.fields(module)}
    del own["parent"], own["num_classes"]  # The data give num_classes, if labels are used.
    own |= dict(class_conditional=(bool, False)) | changes
    return make_group(module.__name__, [(field, *own[field]) for field in own])


def _process(name: str, process: type) -> type:
    """Returns the group ``config.diffusion`` of a process."""
    fields = [(field.name, field.type, field.default) for field in dataclasses.fields(process)]
    return make_group(process.__name__, [("name", Literal[name], name), *fields])


NETWORKS = {name: _network(name, module) for name, module in build.NETWORKS.items()}
PROCESSES = {name: _process(name, process) for name, process in build.PROCESSES.items()}


@dataclasses.dataclass(frozen=True)
class _Common:
    seed: Annotated[int, Field(ge=0, lt=2**32, description="a whole number in 0..2**32-1")] = 0
    # directory of a run whose averaged weights this run starts from, e.g. to add self-conditioning
    init_from: str = ""
    data: Data = Data()
    train: Train = Train()
    objectives: Objectives = Objectives()
    optimizer: Optimizer = Optimizer()
    ema: Ema = Ema()
    mesh: Mesh = Mesh()
    probe: Probe = Probe()
    logging: Logging = Logging()
    profile: Profile = Profile()


def config(network: type, process: type) -> type:
    """Returns the group of all fields, for one of ``NETWORKS`` and one of ``PROCESSES``.

    Evaluators and samplers that are registered from outside the package are part of it.
    """
    plugins = (*evaluators.settings().items(), *SAMPLERS)
    return _config(network, process, plugins)


@functools.cache
def _config(network: type, process: type, plugins: tuple) -> type:
    """Makes the group of ``config``; ``plugins`` is only the cache's key."""
    evals = _nested("Evals", evaluators.settings())
    groups = {"model": network, "diffusion": process, "evals": evals, "sampling": _sampling()}
    return _nested("Config", groups, base=_Common)


def defaults(group: type) -> ConfigDict:
    """Returns the fields of a group with their defaults; optional ones can be set to None."""
    config = {}
    for field in dataclasses.fields(group):
        hint = get_type_hints(group)[field.name]
        if dataclasses.is_dataclass(hint):
            config[field.name] = defaults(hint)
        elif type(None) in get_args(hint):
            (kind,) = set(get_args(hint)) - {type(None)}
            config[field.name] = placeholder(kind)
            config[field.name].set(field.default)
        else:
            config[field.name] = field.default
    return ConfigDict(config)
