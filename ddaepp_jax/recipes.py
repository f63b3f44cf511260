"""What several configs share: the published recipes, and how a long run is looked at."""

from typing import Any

from ml_collections import ConfigDict

from ddaepp_jax import config as schema

# The 56.5M network of DDAE (after DDPM++ of arXiv 2011.13456); the defaults of ``schema.unet`` are the 35.7M one.
DDPMPP = dict(mults=(2, 2, 2), attend=(False, True, False), blocks=4, residual_updown=True, bottleneck="out_5")


def long_run(**data: Any) -> ConfigDict:
    """The default changed to a run of days on images with flips: looked at and saved every 10,000 steps."""
    config = schema.get_config()
    config.data.update(flip=True, **data)
    config.train.update(checkpoint_every=10_000, keep_checkpoints=3)
    for evaluation in config.evals.values():
        evaluation.every = 10_000
    config.evals.heldout_loss.images = 2048
    config.probe.epochs = None
    config.sampling.update(sampler="ddim", batch_size=256)
    return config


def ddae(
    config: ConfigDict, *, epochs: int, batch_size: int, learning_rate: float, images: int = 50_000, **model: Any
) -> ConfigDict:
    """DDAE's UNet and its training (arXiv 2303.09769): Adam at a constant rate, gradients clipped at 1.

    With what differs by the process: warm-up (13 epochs, EDM's 200), dropout (0.1, 0.13), EMA (0.9999, 0.9993) and
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
    """U-ViT-S/2 as its authors train it on CIFAR-10 (arXiv 2209.12152): 500,000 steps of 128, continuous time."""
    config.model = schema.uvit()
    config.diffusion = schema.vp()
    config.train.update(steps=500_000, batch_size=128)
    config.optimizer.update(
        learning_rate=2e-4, schedule="constant", warmup_steps=2500, b1=0.99, b2=0.999, weight_decay=0.03, clip_norm=0.0
    )
    config.ema.decays = (0.9999,)
    config.sampling.update(sampler="ddpm", steps=1000)
    return config


def uvit_ddpm(config: ConfigDict) -> ConfigDict:
    """U-ViT-S/2 as DDAE's authors train it on CIFAR-10 (FutureXiang/Diffusion): 1,300 epochs of 256, DDPM's steps."""
    config = uvit(config)
    config.diffusion = schema.ddpm(time_input="t/T")
    config.train.update(steps=None, epochs=1300, batch_size=256)
    config.optimizer.update(learning_rate=4e-4, warmup_steps=13 * 50_000 // 256, clip_norm=1.0)
    config.sampling.update(sampler="ddim", steps=100)
    return config
