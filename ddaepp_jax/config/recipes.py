"""What several configs share: the published recipes, and how a long run is looked at."""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from ddaepp_jax import config as schema
from ddaepp_jax.data.geometric import AUGMENT_DIM

# The 56.5M network of DDAE (after DDPM++ of arXiv 2011.13456); the defaults of ``schema.unet`` are
# the 35.7M one.
DDPMPP = dict(
    mults=(2, 2, 2), attend=(False, True, False), blocks=4, residual_updown=True, bottleneck="out_5"
)


def long_run(**data: Any) -> ConfigDict:
    """The default changed to a run of days on images with flips: looked at and saved every 10,000
    steps.
    """
    config = schema.get_config()
    config.data.update(flip=True, **data)
    config.train.update(checkpoint_every=10_000, keep_checkpoints=3)
    # Not fid: thousands of samples are worth a decision.
    for name in ("heldout_loss", "samples", "probe", "knn", "features"):
        config.evals[name].every = 10_000
    config.evals.heldout_loss.images = 2048
    config.probe.epochs = None
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
    """DDAE's UNet and its training (arXiv 2303.09769): Adam at a constant rate, gradients clipped
    at 1.

    With what differs by the process: warm-up (13 epochs, EDM's 200), dropout (0.1, 0.13), EMA
      (0.9999, 0.9993) and
    the sampler. ``images`` are the training set's, which turn the warm-up's epochs into steps.
    """
    edm = config.diffusion.name == "edm"
    config.model = schema.unet(dropout=0.13 if edm else 0.1, **model)
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
    """U-ViT-S/2 as its authors train it on CIFAR-10 (arXiv 2209.12152): 500,000 steps of 128,
    continuous time.
    """
    config.model = schema.uvit()
    config.diffusion = schema.vp()
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
    """U-ViT-S/2 as DDAE's authors train it on CIFAR-10 (FutureXiang/Diffusion): 1,300 epochs of
    256, DDPM's steps.
    """
    config = uvit(config)
    config.diffusion = schema.ddpm(time_input="t/T")
    config.train.update(steps=None, epochs=1300, batch_size=256)
    config.optimizer.update(learning_rate=4e-4, warmup_steps=13 * 50_000 // 256, clip_norm=1.0)
    config.sampling.update(sampler="ddim", steps=100)
    return config


# LightningDiT's blocks (arXiv 2501.01423), as all of its released networks have them.
LIGHTNING = dict(rope=True, rmsnorm=True, swiglu=True)


def lightningdit(
    config: ConfigDict, *, epochs: int, class_conditional: bool, **model: Any
) -> ConfigDict:
    """LightningDiT on latents of 16x16x32 and its training (arXiv 2501.01423): flow matching,
    batches of 1,024.

    Guided, it samples with ``guidance`` 6.7 (trained for 800 epochs) or 10 (64), where t >= 0.1, on
    three channels.
    """
    config.model = schema.dit(
        patch_size=1, class_conditional=class_conditional, dtype="bfloat16", **LIGHTNING, **model
    )
    config.diffusion = schema.flow()
    config.data.flip = False  # of images, before they are encoded
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
    """DiT-XL/2 on latents of 32x32x4 and its training (arXiv 2212.09748): DDPM's steps, batches of
    256.

    Its authors sample by 250 steps with the variance that it learned; ours don't read that, and
    DDIM needs none.
    """
    config.model = schema.dit(
        width=1152,
        depth=28,
        num_heads=16,
        class_conditional=True,
        bottleneck="block_14",
        dtype="bfloat16",
    )
    config.diffusion = schema.ddpm(time_input="t-1")
    config.data.flip = False
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
    """Contrastive self-distillation on; the network is told how a view was transformed.

    The paper's weight is not known. Of 0.1 and 0.01 the latter's features were the better ones in
    300 steps of ``ablation_study.py`` (linear and nearest-neighbour accuracy on images held out
    from the training split).
    """
    config.model.augment_dim = AUGMENT_DIM
    config.objectives.distillation.update(weight=0.01, **fields)
    return config


def ablated(config: ConfigDict, variant: str) -> ConfigDict:
    """What DDAE++ ablates, of a U-ViT with DDPM's steps that has both self-conditioning and
    self-distillation.

    Variants change one thing: what is learned, where the feature is taken and given, how it is
      distilled.
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

    # After the last block there is nothing to condition.
    later = dict(later=change(dict(bottleneck="out_1"))) if half > 1 else {}
    return schema.varied(
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
