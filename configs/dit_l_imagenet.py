r"""LightningDiT-L/1 on ImageNet's latents (VA-VAE f16d32, 16x16x32) with self-conditioning.

    python -m ddaepp_jax.main --config=configs/dit_l_imagenet.py \
        --workdir=runs/dit_l --config.data.data_dir=LATENTS

It trains without labels for 200 epochs of 1,281,167 images in batches of 1,024; ``:cond`` uses
labels and takes 100 epochs. Not yet run.
"""

from ddaepp_jax import config
from ddaepp_jax.config import recipes

L = dict(width=1024, depth=24, num_heads=16, bottleneck="block_12", remat="block")


def get_config(variant: str = ""):
    """Variants: "", "cond", "tiny"."""
    run = recipes.imagenet_latents()
    run = recipes.lightningdit(run, epochs=200, class_conditional=False, **L)
    return config.varied(run, variant, cond=cond)


def cond(run):
    run.model.class_conditional = True
    run.train.epochs = 100
    return run
