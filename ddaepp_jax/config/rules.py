"""Rules between fields of a config, and the checks of networks, processes and augmentations.

A rule yields a line "field: value is wrong; mend" for each mistake. It may rely on the types and
ranges of the fields in the groups that it reads.
"""

import itertools
from collections.abc import Callable, Iterator

from ml_collections import ConfigDict

from ddaepp_jax import build
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.data.geometric import AUGMENT_DIM
from ddaepp_jax.diffusion import samplers
from ddaepp_jax.diffusion.guidance import Guidance
from ddaepp_jax.diffusion.process import Process
from ddaepp_jax.sampling.settings import Sampling


def model(config: ConfigDict) -> Iterator[str]:
    for problem in build.unlabelled_network(config).problems():
        yield f"model.{problem}"


def diffusion(config: ConfigDict) -> Iterator[str]:
    try:
        build.process(config)
    except InputError as error:
        yield str(error)


def data(config: ConfigDict) -> Iterator[str]:
    size, augment = config.data.size, config.data.augment
    if size != (0, 0) and min(size) <= 0:
        yield (
            f"data.size: {size} is wrong; it should be (height, width), two positive whole "
            "numbers, or (0, 0)"
        )
    if augment and config.data.name == build.LATENTS:
        yield (
            f"data.augment: {augment}, but latents are not transformed; set it to 0, and "
            "model.augment_dim too"
        )
    elif augment and config.model.augment_dim != AUGMENT_DIM:
        yield (
            f"data.augment: {augment}, but the network is not told of the transformations, so its "
            f"samples would be transformed too; set model.augment_dim to {AUGMENT_DIM}"
        )


def train(config: ConfigDict) -> Iterator[str]:
    lengths = [name for name in ("steps", "epochs", "images") if config.train[name] is not None]
    if len(lengths) != 1:
        number = " and ".join(lengths) or "none"
        example = "None takes one back" if lengths else "1000"
        yield (
            f"train.steps, train.epochs, train.images: {number} given; give exactly one "
            f"(e.g. --config.train.steps={example})"
        )


def objectives(config: ConfigDict) -> Iterator[str]:
    for name, objective in config.objectives.items():
        steps = [step for step, _ in objective.schedule]
        if any(first >= second for first, second in itertools.pairwise(steps)):
            yield (
                f"objectives.{name}.schedule: {objective.schedule} is wrong; it should be "
                "((step, factor), ..) with rising steps"
            )
    if not any(objective.weight for objective in config.objectives.values()):
        yield "objectives.<name>.weight: all are 0; set one to train on"


def distillation(config: ConfigDict) -> Iterator[str]:
    fields, group = config.objectives.distillation, "objectives.distillation"
    try:
        build.photometric(config)
    except ValueError as error:
        yield f"{group}.photometric.{error}"
    if fields.share_denoising and fields.student_level is not None:
        yield (
            f"{group}.student_level: {fields.student_level}, but with share_denoising the "
            "student's levels are the denoiser's; set it to None"
        )
    if not fields.weight:
        return
    if config.data.name == build.LATENTS and (fields.geometric or fields.photometric.use):
        yield (
            f"{group}.geometric: {fields.geometric}, but two views of latents differ by their "
            "mirroring and noise alone; set it to 0, and photometric.use to False"
        )
    if config.train.batch_size == 1:
        yield (
            f"{group}.weight: contrastive distillation needs at least 2 images a batch; "
            "set train.batch_size higher"
        )
    if fields.geometric and config.model.augment_dim not in (0, AUGMENT_DIM):
        yield (
            f"{group}.geometric: {AUGMENT_DIM} numbers describe a view's transformation, the "
            f"network takes {config.model.augment_dim}; set model.augment_dim to {AUGMENT_DIM}, or "
            "to 0 not to tell the network"
        )


def optimizer(config: ConfigDict) -> Iterator[str]:
    fields = config.optimizer
    if config.model.name == "dit" and fields.weight_decay and fields.decay_mask == "all":
        yield "optimizer.decay_mask: 'all' decays DiT's fixed positions too; set it to 'matrices'"


def ema(config: ConfigDict) -> Iterator[str]:
    widths, every = config.ema.sigma_rel, config.ema.snapshot_every
    decays = config.ema.decays
    if len(set(decays)) < len(decays):
        yield f"ema.decays: {decays} is wrong; it should be different numbers"
    if len(set(widths)) < len(widths):
        yield f"ema.sigma_rel: {widths} is wrong; it should be different numbers"
    if every and len(widths) < 2:
        yield (
            f"ema.snapshot_every: {every}, but ema.sigma_rel={widths}: snapshots are combined from "
            "two or more averages; set ema.sigma_rel=(0.05, 0.1), or this to 0"
        )


def sampling(config: ConfigDict) -> Iterator[str]:
    fields = config.sampling
    if fields.guidance != 1 and not config.model.class_conditional:
        yield (
            f"sampling.guidance: {fields.guidance} without labels; set it to 1, or "
            "model.class_conditional to True"
        )
    try:
        Guidance(fields.guidance, fields.guidance_interval, fields.guidance_channels)
    except ValueError as error:
        yield f"sampling.guidance_{error}"
    process = build.process(config)
    try:
        options = Sampling.from_config(fields).options
        samplers.make(process, fields.sampler, fields.steps, options, "sampling.")
    except InputError as error:
        yield str(error)
    yield from _unused_options(config, process)


def _unused_options(config: ConfigDict, process: Process) -> Iterator[str]:
    """Checks the options of the samplers that were not chosen, where they are not the defaults."""
    processes = [process, *(kind() for kind in build.PROCESSES.values())]
    for name, sampler in samplers.SAMPLERS.items():
        options = dict(config.sampling.get(name, {}))
        if name == config.sampling.sampler or {**sampler.options, **options} == sampler.options:
            continue
        own = next(one for one in processes if isinstance(one, sampler.process))
        try:
            samplers.make(own, name, 2, options, "sampling.")
        except InputError as error:
            yield str(error)


# The rules, each with the groups that it reads.
RULES: dict[Callable[[ConfigDict], Iterator[str]], set[str]] = {
    model: {"model"},
    diffusion: {"diffusion"},
    data: {"data", "model"},
    train: {"train"},
    objectives: {"objectives"},
    distillation: {"objectives", "train", "model"},
    optimizer: {"optimizer", "model"},
    ema: {"ema"},
    sampling: {"sampling", "model", "diffusion"},
}
