"""The schema of a run's config, its defaults, its validation, and its JSON.

This file is itself a config file: the one that runs without ``--config``. It trains a self-conditioned U-ViT on
scikit-learn's handwritten digits: no download, no accelerator, a few minutes on two CPU cores.

    python -m ddaepp_jax.main --workdir=runs/digits
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ddaepp_jax.data.geometric import AUGMENT_DIM
from ddaepp_jax.data.photometric import Photometric
from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.diffusion.edm import EDM
from ddaepp_jax.diffusion.flow import Flow
from ddaepp_jax.diffusion.guidance import Guidance
from ddaepp_jax.diffusion.vp import VP
from ddaepp_jax.errors import InputError
from ddaepp_jax.evaluation import diagnostics, image_sets
from ddaepp_jax.models.dit import DiT
from ddaepp_jax.models.unet import UNet
from ddaepp_jax.models.uvit import UViT
from ddaepp_jax.training.ema import WIDTHS


def _fields(name: str, described: type, left_out: Sequence[str], changes: Mapping[str, Any]) -> ConfigDict:
    """A group: ``name`` and the fields of a dataclass with their defaults, but for some left out and some changed."""
    own = {field.name: field.default for field in dataclasses.fields(described) if field.name not in left_out}
    return ConfigDict({"name": name, **own, **changes})


def _network(name: str, described: type, changes: Mapping[str, Any]) -> ConfigDict:
    ours = dict(
        class_conditional=False,  # the network's num_classes is the data's
        self_condition=True,
        attention="auto",  # "xla", "cudnn"; auto: cudnn on a GPU in bfloat16 where it takes the shape
        dtype="float32",  # or "bfloat16": of the computation; parameters are float32
    )
    return _fields(name, described, ("num_classes", "parent", "name"), ours | dict(changes))


def uvit(**changes: Any) -> ConfigDict:
    """Fields of the U-ViT backbone; see ``ddaepp_jax.models.uvit.UViT`` for what each means."""
    return _network("uvit", UViT, changes)


def unet(**changes: Any) -> ConfigDict:
    """Fields of the UNet backbone; see ``ddaepp_jax.models.unet.UNet`` for what each means."""
    return _network("unet", UNet, changes)


def dit(**changes: Any) -> ConfigDict:
    """Fields of the DiT and LightningDiT backbone; see ``ddaepp_jax.models.dit.DiT`` for what each means."""
    return _network("dit", DiT, changes)


def ddpm(**changes: Any) -> ConfigDict:
    """Fields of the discrete variance-preserving process; see ``ddaepp_jax.diffusion.ddpm.DDPM``."""
    return _fields("ddpm", DDPM, (), changes)


def vp(**changes: Any) -> ConfigDict:
    """Fields of the continuous variance-preserving process; see ``ddaepp_jax.diffusion.vp.VP``."""
    return _fields("vp", VP, (), changes)


def edm(**changes: Any) -> ConfigDict:
    """Fields of the EDM process; see ``ddaepp_jax.diffusion.edm.EDM``."""
    return _fields("edm", EDM, (), changes)


def flow(**changes: Any) -> ConfigDict:
    """Fields of the flow-matching process; see ``ddaepp_jax.diffusion.flow.Flow``."""
    return _fields("flow", Flow, (), changes)


def distillation() -> ConfigDict:
    """Fields of contrastive self-distillation; see ``ddaepp_jax.objectives.distillation``."""
    fields = dict(
        weight=0.0,
        schedule=(),
        geometric=0.12,  # probability of each of EDM's transformations of a view; model.augment_dim=9 tells the network
        share_denoising=False,  # the student is the denoiser's pass, at its levels: no pass of its own
        student_level=placeholder(float),  # None: the middle of the process's probe grid
        teacher_level=placeholder(float),
        symmetric=False,  # both views go both ways: twice the passes
        teacher_decay=0.99,
        teacher_schedule="cosine",  # to 1 at the last step; "constant"
        temperature=0.2,
        projector_depth=3,  # Linears; 0: none
        predictor_depth=2,
        hidden=512,  # MoCo v3: 4096
        embedding=128,  # MoCo v3: 256
        norm="batch",  # or "none"
    )
    moco = {field.name: field.default for field in dataclasses.fields(Photometric)}  # crops, colours, blur
    return ConfigDict(fields | {"photometric": {"use": False, **moco}})


def photometric(config: ConfigDict) -> Photometric | None:
    """The photometric augmentation of a config's views; None where it has none."""
    fields = config.objectives.distillation.photometric.to_dict()
    used, made = fields.pop("use"), Photometric(**fields)
    return made if used else None


MODELS = {"uvit": uvit, "unet": unet, "dit": dit}
PROCESSES = {"ddpm": ddpm, "vp": vp, "edm": edm, "flow": flow}


def get_config(variant: str = "") -> ConfigDict:
    """The default: handwritten digits. Every other config starts from here and changes what differs.

    Args:
      variant: "" or "tiny", a few steps of a tiny network.
    """
    config = ConfigDict()
    config.seed = 0
    config.init_from = ""  # another run: start from its EMA weights, e.g. to add self-conditioning

    config.model = uvit(width=64, depth=4, num_heads=2)
    config.diffusion = ddpm(time_input="999t/T")

    config.data = ConfigDict()
    config.data.name = "digits"  # "digits", "folder", "latents", or any data set of tensorflow-datasets
    config.data.data_dir = ""  # the folder itself; a TFDS directory ("": TFDS's own default)
    config.data.split = "train"
    config.data.eval_split = "test"  # held out: never trained on
    config.data.size = (0, 0)  # height and width to crop to; (0, 0): as stored
    config.data.flip = False  # random horizontal flips
    config.data.augment = 0.0  # probability of each of EDM's geometric transformations; model.augment_dim=9 takes them
    config.data.device_bytes = 4 * 2**30  # a set of at most so many bytes lives in device memory; others are streamed
    config.data.stream_threads = 4

    config.train = ConfigDict()
    config.train.steps = placeholder(int)  # exactly one of steps, epochs, images
    config.train.epochs = placeholder(float)
    config.train.images = placeholder(int)
    config.train.batch_size = 64
    config.train.steps_per_dispatch = 50
    config.train.log_every = 100
    config.train.checkpoint_every = 2500
    config.train.keep_checkpoints = 2
    config.train.steps = 7500

    # What is minimised: objectives by their weights; 0 turns one off. schedule: ((step, factor), ..), lines between, by
    # which the weight is multiplied; (): 1 throughout.
    config.objectives = ConfigDict()
    config.objectives.denoising = ConfigDict(dict(weight=1.0, schedule=(), label_dropout=0.1))
    config.objectives.distillation = distillation()

    config.optimizer = ConfigDict(
        dict(
            name="adamw",  # "adamw", "adam", "sgd"
            learning_rate=3e-3,
            schedule="cosine",  # "constant"; cosine falls to zero at the last step
            warmup_steps=300,
            b1=0.9,
            b2=0.99,
            weight_decay=0.03,
            decay_mask="all",  # "matrices": leaves biases, norms and embeddings alone
            clip_norm=1.0,  # 0: no clipping
        )
    )

    # Averages of the weights; evaluations use the first of decays. sigma_rel: relative widths of power-function ones,
    # e.g. (0.05, 0.1); snapshots of two or more, every so many steps (0: none), let others be made after training.
    config.ema = ConfigDict(dict(decays=(0.999,), ramp=True, sigma_rel=(), snapshot_every=0))

    # Axes of the device mesh; -1 takes the rest. A rule is (regex over parameter paths, axes by dimension), and the
    # first that matches counts. ("fsdp",) alone shards the largest dimension that divides; others are replicated.
    config.mesh = ConfigDict(dict(data=-1, fsdp=1, tensor=1, rules=((".*", ("fsdp",)),)))

    config.evals = ConfigDict()  # what is measured every so many steps; 0: never
    config.evals.heldout_loss = ConfigDict(dict(every=2500, images=256, levels=10))
    config.evals.samples = ConfigDict(dict(every=2500, n=64))
    # Frechet distance and its kin of samples to the training split, by the features of an extractor: "classifier" (of
    # the data; trained once), "inception", or its directory.
    config.evals.fid = ConfigDict(dict(every=0, n=5000, extractor="classifier"))
    # A layer's linear and nearest-neighbour accuracy, heads and choice on images of the training split.
    config.evals.probe = ConfigDict(dict(every=2500, images=5000, layer="bottleneck", level=placeholder(float)))
    config.evals.knn = ConfigDict(dict(every=2500, images=5000, layer="bottleneck", level=placeholder(float), k=20))
    # Without labels: how far two views of an image agree in a layer, and how much of their space the images fill.
    config.evals.features = ConfigDict(dict(every=2500, images=1024, layer="bottleneck", level=placeholder(float)))

    # linear_probe's: a protocol by name, its epochs (None: its own), the part of the training split that chooses,
    # neighbours (0: none).
    config.probe = ConfigDict(dict(protocol="cached", epochs=placeholder(int), held_out=0.1, knn=20))
    config.probe.epochs = 100  # of 1,500 images

    config.sampling = ConfigDict(dict(sampler="ddpm", steps=100, guidance=1.0, batch_size=64))
    config.sampling.guidance_interval = ()  # noise levels that guidance is limited to, (low, high); (): every level
    config.sampling.guidance_channels = 0  # only the first so many are guided; 0: all
    config.sampling.clip = True  # the estimated clean image to [-1, 1] at every evaluation
    config.sampling.ddim = ConfigDict(dict(table="standard"))  # "ddae": DDAE's own alpha_bar
    # With s_churn 0 deterministic; the others are EDM's for CIFAR-10 with s_churn 30 (table 5 of the paper).
    config.sampling.heun = ConfigDict(dict(s_churn=0.0, s_min=0.01, s_max=1.0, s_noise=1.007))
    # Of flows; shift 1: even steps, below 1: shorter ones at the noise. diffusion 0: no noise.
    config.sampling.euler = ConfigDict(dict(shift=1.0))
    config.sampling.heun_flow = ConfigDict(dict(shift=1.0))
    config.sampling.euler_maruyama = ConfigDict(dict(shift=1.0, diffusion=1.0))

    config.logging = ConfigDict(dict(tensorboard=True, wandb=False))
    config.profile = ConfigDict(dict(start=0, steps=0))  # a window of steps traced for a profiler; 0 steps: none
    return varied(config, variant)


def varied(config: ConfigDict, variant: str, **variants: Callable[[ConfigDict], ConfigDict]) -> ConfigDict:
    """The variant of a config: "" is itself, "tiny" every config has, others are the config's own functions."""
    variants |= {"tiny": tiny}
    if variant and variant not in variants:
        raise InputError(f"--config: this config has no variant {variant!r}; it has {', '.join(variants)}")
    return variants[variant](config) if variant else config


TINY_MODELS = {
    "uvit": dict(width=32, depth=2, num_heads=2, patch_size=2),
    "unet": dict(channels=64, mults=(1, 2), attend=(False, True), blocks=1, bottleneck="out_2"),
    "dit": dict(width=32, depth=2, num_heads=2, patch_size=2, bottleneck="block_1"),
}


def tiny(config: ConfigDict) -> ConfigDict:
    """The variant of every config that runs anywhere in seconds: its structure, a tiny network, digits for data."""
    config.model.update(TINY_MODELS[config.model.name])
    config.data.update(name="digits", data_dir="", size=(0, 0), split="train", eval_split="test")
    config.train.update(
        steps=4, epochs=None, images=None, batch_size=16, steps_per_dispatch=2, log_every=2, checkpoint_every=2
    )
    config.objectives.distillation.update(hidden=32, embedding=16)
    config.optimizer.warmup_steps = 2
    config.evals.heldout_loss.update(every=4, images=32, levels=3)
    config.evals.samples.update(every=4, n=4)
    config.evals.fid.update(every=0, n=16)  # a classifier of the data would be trained first
    config.evals.probe.update(every=4, images=200)
    config.evals.knn.update(every=4, images=200)
    config.evals.features.update(every=4, images=64)
    config.sampling.update(steps=4, batch_size=16, guidance_channels=0)
    return config


def to_json(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2) + "\n"


def from_json(text: str, file: str) -> ConfigDict:
    """The config of a run directory's ``config.json``; JSON's lists become tuples again."""

    def tuples(value: Any) -> Any:
        if isinstance(value, list):
            return tuple(tuples(v) for v in value)
        return {k: tuples(v) for k, v in value.items()} if isinstance(value, dict) else value

    try:
        config = _completed(ConfigDict(tuples(json.loads(text))))
        validate(config)
    except (ValueError, AttributeError, KeyError, TypeError) as error:  # JSON's, ConfigDict's, validate's
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{file}: not the config of a run of this program ({reason}); give a run directory") from None
    return config


def _completed(config: ConfigDict) -> ConfigDict:
    """A config of an older version with the fields that came later, where they move no number of the training."""
    known = get_config()
    if config.model.name in MODELS:
        known.model = MODELS[config.model.name]()
    for group in ("model", "data", "objectives", "evals", "probe", "sampling", "logging", "profile"):
        whole = known[group].copy_and_resolve_references()
        whole.update(config.get(group, {}))
        config[group] = whole
    for name in ("sigma_rel", "snapshot_every"):  # of a group whose other fields move numbers
        config.ema[name] = config.ema.get(name, known.ema[name])
    return config


# Fields that a resumed run may change: they move no number of the training (the mesh's rounding apart).
MAY_CHANGE = (
    "train.steps",
    "train.epochs",
    "train.images",
    "train.steps_per_dispatch",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "data.data_dir",
    "data.device_bytes",
    "data.stream_threads",
    "model.remat",
    "model.attention",
    "model.scan",
    "ema.snapshot_every",  # a snapshot says what it is of: any set of them can be combined, and how well is known
    "mesh.",
    "evals.",
    "probe.",
    "sampling.",
    "logging.",
    "profile.",
)


def changes(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Fields that differ and that a resumed run may not change, as "field: old -> new"."""
    before, after = _flat(old), _flat(new)
    allowed = MAY_CHANGE
    distillation = new.objectives.distillation
    teacher = distillation.weight and distillation.teacher_schedule
    if "cosine" in (new.optimizer.schedule, teacher):  # the learning rate or the teacher's decay depends on the length
        allowed = tuple(name for name in MAY_CHANGE if name not in ("train.steps", "train.epochs", "train.images"))
    both_off = [name for name in new.objectives if not (old.objectives[name].weight or new.objectives[name].weight)]
    allowed += tuple(f"objectives.{name}." for name in both_off)
    return [
        f"{name}: {before.get(name, 'absent')} -> {after.get(name, 'absent')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name, "absent") != after.get(name, "absent") and not name.startswith(allowed)
    ]


def _flat(config: ConfigDict) -> dict[str, Any]:
    """Leaves by dotted name."""
    leaves = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            leaves |= {f"{name}.{inner}": leaf for inner, leaf in _flat(value).items()}
        else:
            leaves[name] = value
    return leaves


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise InputError(message)


def check_names(group: str, given: ConfigDict, known: ConfigDict) -> None:
    """Refuse fields of a group that nothing reads, and a group that lacks some."""
    for name in sorted(set(given) ^ set(known)):
        wrong, whole = "no such field" if name in given else "missing", group.rstrip(".") or "a config"
        raise InputError(f"{group}{name}: {wrong}; the fields of {whole} are {', '.join(known)}")


def _numbers(values: Any, kind: type) -> bool:
    return isinstance(values, tuple) and all(type(value) is kind for value in values)


def validate(config: ConfigDict) -> None:
    """Check what can be checked without the data and the devices.

    Raises:
      InputError: names the first field that is wrong, and the mend.
    """
    known = get_config()
    check_names("", config, known)
    chosen_by_name = ("model", "diffusion")  # whose fields are checked where the name becomes an object
    for group in (g for g in known if isinstance(known[g], ConfigDict) and g not in chosen_by_name):
        check_names(f"{group}.", config[group], known[group])
    for group in ("evals", "objectives"):
        for name, fields in config[group].items():
            check_names(f"{group}.{name}.", fields, known[group][name])
    train, model, data = config.train, config.model, config.data
    optimizer, guidance = config.optimizer, config.sampling.guidance
    given = [name for name in ("steps", "epochs", "images") if train[name] is not None]
    _require(
        len(given) == 1,
        f"train.steps, train.epochs, train.images: {' and '.join(given) or 'none'} given; give exactly one "
        "(--config.train.steps=None takes one back)",
    )
    _require(train[given[0]] > 0, f"train.{given[0]}: {train[given[0]]} is not positive")
    for name in ("batch_size", "steps_per_dispatch", "log_every", "checkpoint_every", "keep_checkpoints"):
        _require(train[name] > 0, f"train.{name}: {train[name]} is not positive")
    _require(0 <= config.seed < 2**32, f"seed: {config.seed} is not in 0..2**32-1")
    _require(
        bool(config.ema.decays) and _numbers(config.ema.decays, float) and all(0 < d < 1 for d in config.ema.decays),
        f"ema.decays: {config.ema.decays}: give at least one number between 0 and 1, e.g. (0.9999,)",
    )
    widths, every = config.ema.sigma_rel, config.ema.snapshot_every
    _require(
        _numbers(widths, float) and all(WIDTHS[0] <= w < WIDTHS[1] for w in widths) and len({*widths}) == len(widths),
        f"ema.sigma_rel: {widths}: give different numbers, from {WIDTHS[0]} to below {WIDTHS[1]:.4f}, e.g. (0.05, 0.1)",
    )
    _require(every >= 0, f"ema.snapshot_every: {every} is negative; 0 turns it off")
    _require(
        every == 0 or len(widths) > 1,
        f"ema.snapshot_every: {every}, but ema.sigma_rel={widths}: snapshots are combined from two or more averages; "
        "set ema.sigma_rel=(0.05, 0.1), or this to 0",
    )
    _require(
        model.dtype in ("float32", "bfloat16"), f"model.dtype: {model.dtype!r} is neither 'float32' nor 'bfloat16'"
    )
    _validate_objectives(config)
    _require(optimizer.learning_rate > 0, f"optimizer.learning_rate: {optimizer.learning_rate} is not positive")
    for name in ("weight_decay", "clip_norm", "warmup_steps"):
        _require(optimizer[name] >= 0, f"optimizer.{name}: {optimizer[name]} is negative; 0 turns it off")
    for name in ("b1", "b2"):
        _require(0 <= optimizer[name] < 1, f"optimizer.{name}: {optimizer[name]} is not in [0, 1)")
    _require(
        _numbers(data.size, int) and len(data.size) == 2 and (min(data.size) > 0 or data.size == (0, 0)),
        f"data.size: {data.size} is not (height, width), two positive whole numbers, or (0, 0)",
    )
    _require(0 <= data.augment <= 1, f"data.augment: {data.augment} is not a probability")
    _require(
        data.augment == 0 or model.get("augment_dim") == AUGMENT_DIM,
        f"data.augment: the network has to know the transformation, or its samples are transformed too; set "
        f"model.augment_dim to {AUGMENT_DIM}",
    )
    _require(data.stream_threads > 0, f"data.stream_threads: {data.stream_threads} is not positive")
    for rule in config.mesh.rules:
        _require(
            isinstance(rule, tuple) and [type(part) for part in rule] == [str, tuple] and _compiles(rule[0]),
            f"mesh.rules: {rule!r} is not (regex, axes), e.g. ('.*', ('fsdp',))",
        )
    for name, evaluation in config.evals.items():
        _require(evaluation.every >= 0, f"evals.{name}.every: {evaluation.every} is negative; 0 turns it off")
        for field in ("images", "levels", "n", "k"):
            value = evaluation.get(field, 1)
            _require(value > 0, f"evals.{name}.{field}: {value} is not positive; evals.{name}.every=0 turns it off")
    for name, n, least in (
        ("fid.n", config.evals.fid.n, image_sets.FEWEST),
        ("features.images", config.evals.features.images, diagnostics.FEWEST),
    ):
        _require(n >= least, f"evals.{name}: {n} images are too few; give {least} or more")
    _require(0 <= config.probe.held_out < 1, f"probe.held_out: {config.probe.held_out} is not in [0, 1)")
    epochs = config.probe.epochs
    _require(epochs is None or epochs > 0, f"probe.epochs: {epochs} is not positive; None is the protocol's own")
    _require(config.probe.knn >= 0, f"probe.knn: {config.probe.knn} is negative; 0 asks no neighbours")
    _require(config.sampling.batch_size > 0, f"sampling.batch_size: {config.sampling.batch_size} is not positive")
    _require(
        guidance == 1 or model.class_conditional,
        f"sampling.guidance: {guidance} without labels; set it to 1, or model.class_conditional to True",
    )
    try:
        Guidance(guidance, config.sampling.guidance_interval, config.sampling.guidance_channels)
    except ValueError as error:
        raise InputError(f"sampling.guidance_{error}") from None


def _validate_objectives(config: ConfigDict) -> None:
    for name, objective in config.objectives.items():
        weight, points = objective.weight, objective.schedule
        _require(weight >= 0, f"objectives.{name}.weight: {weight} is negative; 0 turns it off")
        _require(
            isinstance(points, tuple)
            and all(isinstance(p, tuple) and len(p) == 2 and min(p) >= 0 for p in points)
            and all(first[0] < second[0] for first, second in itertools.pairwise(points)),
            f"objectives.{name}.schedule: {points}: give ((step, factor), ..) with rising steps, "
            "e.g. ((0, 0.0), (5000, 1.0)), or () for 1 throughout",
        )
    _require(
        any(objective.weight > 0 for objective in config.objectives.values()),
        "objectives.<name>.weight: all are 0; there is nothing to train on",
    )
    dropout = config.objectives.denoising.label_dropout
    _require(0 <= dropout <= 1, f"objectives.denoising.label_dropout: {dropout} is not in 0..1")
    fields, known = config.objectives.distillation, distillation()
    check_names("objectives.distillation.photometric.", fields.photometric, known.photometric)
    group, augment_dim = "objectives.distillation", config.model.get("augment_dim")
    _require(
        config.train.batch_size > 1 or not fields.weight,
        f"{group}.weight: in batches of one image it has no other to be told from; set train.batch_size higher",
    )
    _require(0 <= fields.geometric <= 1, f"{group}.geometric: {fields.geometric} is not a probability")
    _require(
        not (fields.weight and fields.geometric) or augment_dim in (0, AUGMENT_DIM),
        f"{group}.geometric: {AUGMENT_DIM} numbers say how a view is transformed, the network takes {augment_dim}; "
        f"set model.augment_dim to {AUGMENT_DIM}, or to 0, and it is not told",
    )
    _require(0 <= fields.teacher_decay <= 1, f"{group}.teacher_decay: {fields.teacher_decay} is not in 0..1")
    _require(fields.temperature > 0, f"{group}.temperature: {fields.temperature} is not positive")
    for name in ("projector_depth", "predictor_depth"):
        _require(fields[name] >= 0, f"{group}.{name}: {fields[name]} is negative; 0 is none")
    for name in ("hidden", "embedding"):
        _require(fields[name] > 0, f"{group}.{name}: {fields[name]} is not positive")
    try:
        photometric(config)
    except ValueError as error:
        raise InputError(f"{group}.photometric.{error}") from None


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True
