"""The schema of a run's config, and its defaults.

This file is itself a config file: the one that runs without ``--config``. It trains a
  self-conditioned U-ViT on
scikit-learn's handwritten digits: no download, no accelerator, a few minutes on two CPU cores.
``make demo`` trains ``configs/unet_digits.py``, whose features are better.

    python -m ddaepp_jax.main --workdir=runs/uvit_digits
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.data.photometric import Photometric
from ddaepp_jax.diffusion.ddpm import DDPM
from ddaepp_jax.diffusion.edm import EDM
from ddaepp_jax.diffusion.flow import Flow
from ddaepp_jax.diffusion.vp import VP
from ddaepp_jax.models.dit import DiT
from ddaepp_jax.models.unet import UNet
from ddaepp_jax.models.uvit import UViT


def _fields(
    name: str, described: type, left_out: Sequence[str], changes: Mapping[str, Any]
) -> ConfigDict:
    """A group: ``name`` and the fields of a dataclass with their defaults, but for some left out
    and some changed.
    """
    own = {
        field.name: field.default
        for field in dataclasses.fields(described)
        if field.name not in left_out
    }
    return ConfigDict({"name": name, **own, **changes})


def _network(name: str, described: type, changes: Mapping[str, Any]) -> ConfigDict:
    ours = dict(
        class_conditional=False,  # the network's num_classes is the data's
        self_condition=True,
        # "xla", "cudnn"; auto: cudnn on a GPU in bfloat16 where it takes the shape
        attention="auto",
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
    """Fields of the DiT and LightningDiT backbone; see ``ddaepp_jax.models.dit.DiT`` for what each
    means.
    """
    return _network("dit", DiT, changes)


def ddpm(**changes: Any) -> ConfigDict:
    """Fields of the discrete variance-preserving process; see
    ``ddaepp_jax.diffusion.ddpm.DDPM``.
    """
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
        # probability of each of EDM's transformations of a view; model.augment_dim=9 tells the
        # network
        geometric=0.12,
        # the student is the denoiser's pass, at its levels: no pass of its own
        share_denoising=False,
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
    moco = {
        field.name: field.default for field in dataclasses.fields(Photometric)
    }  # crops, colours, blur
    return ConfigDict(fields | {"photometric": {"use": False, **moco}})


def photometric(config: ConfigDict) -> Photometric | None:
    """The photometric augmentation of a config's views; None where it has none."""
    fields = config.objectives.distillation.photometric.to_dict()
    used, made = fields.pop("use"), Photometric(**fields)
    return made if used else None


MODELS = {"uvit": uvit, "unet": unet, "dit": dit}
PROCESSES = {"ddpm": ddpm, "vp": vp, "edm": edm, "flow": flow}


def _data() -> ConfigDict:
    """What is trained on."""
    config = ConfigDict()
    config.name = "digits"  # "digits", "folder", "latents", or any data set of tensorflow-datasets
    config.data_dir = ""  # the folder itself; a TFDS directory ("": TFDS's own default)
    config.split = "train"
    config.eval_split = "test"  # held out: never trained on
    config.size = (0, 0)  # height and width to crop to; (0, 0): as stored
    config.flip = False  # random horizontal flips
    # probability of each of EDM's geometric transformations; model.augment_dim=9 takes them
    config.augment = 0.0
    config.device_bytes = (
        4 * 2**30
    )  # a set of at most so many bytes lives in device memory; others are streamed
    config.stream_threads = 4
    return config


def _train() -> ConfigDict:
    """How long, in what batches; what is kept."""
    config = ConfigDict()
    config.steps = placeholder(int)  # exactly one of steps, epochs, images
    config.epochs = placeholder(float)
    config.images = placeholder(int)
    config.batch_size = 64
    config.steps_per_dispatch = 50
    config.log_every = 100
    config.checkpoint_every = 2500
    config.keep_checkpoints = 2
    config.steps = 7500
    return config


def _evals() -> ConfigDict:
    """What is measured every so many steps; 0: never."""
    config = ConfigDict()
    config.heldout_loss = ConfigDict(dict(every=2500, images=256, levels=10))
    config.samples = ConfigDict(dict(every=2500, n=64))
    # Frechet distance and its kin of samples to the training split, by the features of an
    # extractor: "classifier" (of the data; trained once), "inception", or its directory.
    config.fid = ConfigDict(dict(every=0, n=5000, extractor="classifier"))
    # A layer's linear and nearest-neighbour accuracy, heads and choice on images of the training
    # split.
    config.probe = ConfigDict(
        dict(every=2500, images=5000, layer="bottleneck", level=placeholder(float))
    )
    config.knn = ConfigDict(
        dict(every=2500, images=5000, layer="bottleneck", level=placeholder(float), k=20)
    )
    # Without labels: how far two views of an image agree in a layer, and how much of their space
    # the images fill.
    config.features = ConfigDict(
        dict(every=2500, images=1024, layer="bottleneck", level=placeholder(float))
    )
    return config


def _sampling() -> ConfigDict:
    """How images are drawn; a sampler's options have its name."""
    config = ConfigDict(dict(sampler="ddpm", steps=100, guidance=1.0, batch_size=64))
    # noise levels that guidance is limited to, (low, high); (): every level
    config.guidance_interval = ()
    config.guidance_channels = 0  # only the first so many are guided; 0: all
    config.clip = True  # the estimated clean image to [-1, 1] at every evaluation
    config.ddim = ConfigDict(dict(table="standard"))  # "ddae": DDAE's own alpha_bar
    # With s_churn 0 deterministic; the others are EDM's for CIFAR-10 with s_churn 30 (table 5 of
    # the paper).
    config.heun = ConfigDict(dict(s_churn=0.0, s_min=0.01, s_max=1.0, s_noise=1.007))
    # Of flows; shift 1: even steps, below 1: shorter ones at the noise. diffusion 0: no noise.
    config.euler = ConfigDict(dict(shift=1.0))
    config.heun_flow = ConfigDict(dict(shift=1.0))
    config.euler_maruyama = ConfigDict(dict(shift=1.0, diffusion=1.0))
    return config


def get_config(variant: str = "") -> ConfigDict:
    """The default: handwritten digits. Every other config starts from here and changes what
    differs.

    Args:
      variant: "" or "tiny", a few steps of a tiny network.
    """
    config = ConfigDict()
    config.seed = 0
    config.init_from = ""  # another run: start from its EMA weights, e.g. to add self-conditioning

    config.model = uvit(width=64, depth=4, num_heads=2)
    config.diffusion = ddpm(time_input="999t/T")

    config.data, config.train = _data(), _train()

    # What is minimised: objectives by their weights; 0 turns one off. schedule: ((step, factor),
    # ..), lines between, by which the weight is multiplied; (): 1 throughout.
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

    # Averages of the weights; evaluations use the first of decays. sigma_rel: relative widths of
    # power-function ones, e.g. (0.05, 0.1); snapshots of two or more, every so many steps (0:
    # none), let others be made after training.
    config.ema = ConfigDict(dict(decays=(0.999,), ramp=True, sigma_rel=(), snapshot_every=0))

    # Axes of the device mesh; -1 takes the rest. A rule is (regex over parameter paths, axes by
    # dimension), and the first that matches counts. ("fsdp",) alone shards the largest dimension
    # that divides; others are replicated.
    config.mesh = ConfigDict(dict(data=-1, fsdp=1, tensor=1, rules=((".*", ("fsdp",)),)))

    config.evals = _evals()
    # linear_probe's: a protocol by name, its epochs (None: its own), the part of the training split
    # that chooses, neighbours (0: none).
    config.probe = ConfigDict(
        dict(protocol="cached", epochs=placeholder(int), held_out=0.1, knn=20)
    )
    config.probe.epochs = 100  # of 1,500 images

    config.sampling = _sampling()
    config.logging = ConfigDict(dict(tensorboard=True, wandb=False))
    config.profile = ConfigDict(
        dict(start=0, steps=0)
    )  # a window of steps traced for a profiler; 0 steps: none
    return varied(config, variant)


def varied(
    config: ConfigDict, variant: str, **variants: Callable[[ConfigDict], ConfigDict]
) -> ConfigDict:
    """The variant of a config: "" is itself, "tiny" every config has, others are the config's own
    functions.
    """
    variants |= {"tiny": tiny}
    if variant and variant not in variants:
        raise InputError(
            f"--config: this config has no variant {variant!r}; it has {', '.join(variants)}"
        )
    return variants[variant](config) if variant else config


TINY_MODELS = {
    "uvit": dict(width=32, depth=2, num_heads=2, patch_size=2),
    "unet": dict(channels=64, mults=(1, 2), attend=(False, True), blocks=1, bottleneck="out_2"),
    "dit": dict(width=32, depth=2, num_heads=2, patch_size=2, bottleneck="block_1"),
}


def tiny(config: ConfigDict) -> ConfigDict:
    """The variant of every config that runs anywhere in seconds: its structure, a tiny network,
    digits for data.
    """
    config.model.update(TINY_MODELS[config.model.name])
    config.data.update(name="digits", data_dir="", size=(0, 0), split="train", eval_split="test")
    config.train.update(
        steps=4,
        epochs=None,
        images=None,
        batch_size=16,
        steps_per_dispatch=2,
        log_every=2,
        checkpoint_every=2,
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
