"""LightningDiT-L/1 on ImageNet's latents (VA-VAE f16d32, 16x16x32) with self-conditioning.

    python -m ddaepp_jax.main --config=configs/dit_l_imagenet.py --workdir=runs/dit_l --config.data.data_dir=LATENTS

Without labels, 200 epochs of 1,281,167 images in batches of 1,024; ``:cond`` takes labels, 100
epochs. As in configs/dit_b_imagenet.py, which see, latents are not there yet, and nothing has been
run.
"""

from ddaepp_jax.config import recipes, varied

L = dict(width=1024, depth=24, num_heads=16, bottleneck="block_12", remat=True)


def get_config(variant: str = ""):
    """Variants: "", "cond", "tiny"."""
    config = recipes.long_run(name="latents")
    config = recipes.lightningdit(config, epochs=200, class_conditional=False, **L)
    return varied(config, variant, cond=cond)


def cond(config):
    config.model.class_conditional = True
    config.train.epochs = 100
    return config
