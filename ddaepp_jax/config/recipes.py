"""Recipes that several configs share: published trainings, and the evaluations of a long run.

Each changes the config that it is given and returns it.
"""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from ddaepp_jax.config import default
from ddaepp_jax.data.geometric import AUGMENT_DIM

# The 56.5M network of DDAE, after DDPM++ of arXiv 2011.13456. The defaults of ``config.unet`` are
# the 35.7M one.
DDPMPP = dict(
    mults=(2, 2, 2), attend=(False, True, False), blocks=4, residual_updown=True, bottleneck="out_5"
)


def long_run(**data: Any) -> ConfigDict:
    """Returns the default config, changed to a run of days on images with random flips.

    It is saved and evaluated every 10,000 steps.

    Args:
      data: fields of ``config.data``.
    """
    config = default.get_config()
    config.data.update(flip=True, **data)
    config.train.update(checkpoint_every=10_000, keep_checkpoints=3)
    # ``fid`` stays off: it draws thousands of samples.
    for name in ("heldout_loss", "samples", "probe", "knn", "features"):
        config.evals[name].every = 10_000
    config.evals.heldout_loss.images = 2048
    config.probe.epochs = None
    config.evals.probe.epochs = None
    config.sampling.update(sampler="ddim", batch_size=256)
    return config


def ddae(
    config: ConfigDict,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    images: int = 50_000,
    **model: Any,
) -> ConfigDict:
    """Sets DDAE's UNet and its training (arXiv 2303.09769).

    Adam runs at a constant rate, and gradients are clipped at 1. The warm-up (200 epochs for EDM,
    13 for others), dropout (0.13, 0.1), the average's decay (0.9993, 0.9999) and the sampler depend
    on the process.

    Args:
      images: number of training images, which turns the warm-up's epochs into steps.
      model: fields of ``config.model``.
    """
    edm = config.diffusion.name == "edm"
    config.model = default.unet(dropout=0.13 if edm else 0.1, **model)
    config.train.update(steps=None, epochs=epochs, batch_size=batch_size)
    config.optimizer.update(
        name="adam",
        learning_rate=learning_rate,
        schedule="constant",
        warmup_steps=(200 if edm else 13) * images // batch_size,
        b1=0.9,
        b2=0.999,
        weight_decay=0.0,
    )
    config.ema.decays = (0.9993 if edm else 0.9999,)
    if edm:
        config.sampling.update(sampler="heun", steps=18)
    return config


def uvit(config: ConfigDict) -> ConfigDict:
    """Sets U-ViT-S/2 as its authors train it on CIFAR-10 (arXiv 2209.12152).

    The process has continuous time; the run takes 500,000 steps of 128 images.
    """
    config.model = default.uvit()
    config.diffusion = default.vp()
    config.train.update(steps=500_000, batch_size=128)
    config.optimizer.update(
        learning_rate=2e-4,
        schedule="constant",
        warmup_steps=2500,
        b1=0.99,
        b2=0.999,
        weight_decay=0.03,
        clip_norm=0.0,
    )
    config.ema.decays = (0.9999,)
    config.sampling.update(sampler="ddpm", steps=1000)
    return config


def uvit_ddpm(config: ConfigDict) -> ConfigDict:
    """Sets U-ViT-S/2 as DDAE's authors train it on CIFAR-10 (FutureXiang/Diffusion).

    The process is DDPM; the run takes 1,300 epochs of batches of 256.
    """
    config = uvit(config)
    config.diffusion = default.ddpm(time_input="t/T")
    config.train.update(steps=None, epochs=1300, batch_size=256)
    config.optimizer.update(learning_rate=4e-4, warmup_steps=13 * 50_000 // 256, clip_norm=1.0)
    config.sampling.update(sampler="ddim", steps=100)
    return config


# The blocks of all released LightningDiTs (arXiv 2501.01423).
LIGHTNING = dict(rope=True, rmsnorm=True, swiglu=True)


def imagenet_latents() -> ConfigDict:
    """Returns the config of a long run on ImageNet's latents, whose test split has no labels."""
    return long_run(name="latents", eval_split="validation")


def lightningdit(
    config: ConfigDict, *, epochs: int, class_conditional: bool, **model: Any
) -> ConfigDict:
    """Sets LightningDiT on latents of 16x16x32 and its training (arXiv 2501.01423).

    It trains by flow matching in batches of 1,024. Its guided samples use ``sampling.guidance`` 6.7
    after 800 epochs of training, or 10 after 64, at t >= 0.1 and on three channels.

    Args:
      model: fields of ``config.model``.
    """
    config.model = default.dit(
        patch_size=1, class_conditional=class_conditional, dtype="bfloat16", **LIGHTNING, **model
    )
    config.diffusion = default.flow()
    config.data.update(flip=True, autoencoder="va-vae")
    config.train.update(steps=None, epochs=epochs, batch_size=1024)
    config.optimizer.update(
        learning_rate=2e-4,
        schedule="constant",
        warmup_steps=0,
        b1=0.9,
        b2=0.95,
        weight_decay=0.0,
        clip_norm=0.0,
    )
    config.ema.decays = (0.9999,)
    config.sampling.update(
        sampler="euler", steps=249, clip=False, guidance_interval=(0.1, 1.0), guidance_channels=3
    )
    config.sampling.euler.shift = 0.3
    return config


def dit(config: ConfigDict) -> ConfigDict:
    """Sets DiT-XL/2 on latents of 32x32x4 and its training (arXiv 2212.09748).

    The process is DDPM; batches have 256 images. The authors sample in 250 steps with the variance
    that the network learned. The samplers here do not read it; DDIM does not need it.
    """
    config.model = default.dit(
        width=1152,
        depth=28,
        num_heads=16,
        class_conditional=True,
        bottleneck="block_14",
        dtype="bfloat16",
    )
    config.diffusion = default.ddpm(time_input="t-1")
    config.data.update(flip=True, autoencoder="sd-vae")
    config.train.update(steps=7_000_000, batch_size=256)
    config.optimizer.update(
        learning_rate=1e-4,
        schedule="constant",
        warmup_steps=0,
        b1=0.9,
        b2=0.999,
        weight_decay=0.0,
        clip_norm=0.0,
    )
    config.ema.decays = (0.9999,)
    config.sampling.update(sampler="ddim", steps=250, clip=False, guidance_channels=3)
    return config


def distilled(config: ConfigDict, **fields: Any) -> ConfigDict:
    """Turns on contrastive self-distillation; the network is told how a view was transformed.

    The paper's weight is not known. Of 0.1 and 0.01, the latter gave better features in 300 steps
    of ``ablation_study.py`` (linear and nearest-neighbour accuracy on images held out from the
    training split).

    Args:
      fields: fields of ``config.objectives.distillation``.
    """
    config.model.augment_dim = AUGMENT_DIM
    config.objectives.distillation.update(weight=0.01, **fields)
    return config


def ablated(config: ConfigDict, variant: str) -> ConfigDict:
    """Returns one of the variants that DDAE++ ablates.

    A variant changes one thing: the objectives, the block of the feature and its use, or the
    distillation.

    Args:
      config: a U-ViT with DDPM, with both self-conditioning and self-distillation.
    """
    half = config.model.depth // 2

    def change(
        model: dict[str, Any] | None = None, **distillation: Any
    ) -> Callable[[ConfigDict], ConfigDict]:
        def changed(config: ConfigDict) -> ConfigDict:
            config.model.update(model or {})
            config.objectives.distillation.update(distillation)
            return config

        return changed

    # Nothing follows the last block that could be conditioned.
    later = dict(later=change(dict(bottleneck="out_1"))) if half > 1 else {}
    return default.varied(
        config,
        variant,
        **later,
        plain=change(dict(self_condition=False, augment_dim=0), weight=0.0),
        conditioned=change(dict(augment_dim=0), weight=0.0),
        distilled=change(dict(self_condition=False)),
        both=change(),
        cls_token=change(dict(pool="cls")),
        own_token=change(dict(inject="token")),
        no_augment_token=change(dict(augment_dim=0)),
        no_scale=change(dict(time_scale=False)),
        mlp_projection=change(dict(projection="mlp")),
        earlier=change(dict(bottleneck=f"in_{half}")),
        heads_1=change(projector_depth=1, predictor_depth=1),
        heads_2=change(projector_depth=2, predictor_depth=2),
        no_batch_norm=change(norm="none"),
        level_1=change(student_level=1.0, teacher_level=1.0),
        level_101=change(student_level=101.0, teacher_level=101.0),
        shared=change(share_denoising=True),
        symmetric=change(symmetric=True),
        flips_only=change(geometric=0.0),
        photometric=change(geometric=0.0, photometric={"use": True}),
    )
