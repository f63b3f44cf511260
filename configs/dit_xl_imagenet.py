r"""LightningDiT-XL/1 on ImageNet's latents (VA-VAE f16d32, 16x16x32) with self-conditioning.

    python -m ddaepp_jax.main --config=configs/dit_xl_imagenet.py \
        --workdir=runs/dit_xl --config.data.data_dir=LATENTS

It trains with labels for 64 epochs of 1,281,167 images in batches of 1,024, as the authors of
LightningDiT do (hustvl/LightningDiT; arXiv 2501.01423): FID-50k 5.14 of the plain network, and 2.11
with guidance. ``:long`` takes their 800 epochs: 2.17, and 1.35 with guidance. DDAE++ has no such
network. Not yet run.
"""

from ddaepp_jax import config
from ddaepp_jax.config import recipes

XL = dict(width=1152, depth=28, num_heads=16, bottleneck="block_14", remat="block")


def get_config(variant: str = ""):
    """Variants: "", "long", "tiny"."""
    run = recipes.imagenet_latents()
    run = recipes.lightningdit(run, epochs=64, class_conditional=True, **XL)
    return config.varied(run, variant, long=long)


def long(run):
    run.train.epochs = 800
    return run
