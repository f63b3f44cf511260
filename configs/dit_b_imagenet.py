"""LightningDiT-B/1 on ImageNet's latents (VA-VAE f16d32, 16x16x32) with self-conditioning: DDAE++'s
own setting.

    python -m ddaepp_jax.main --config=configs/dit_b_imagenet.py --workdir=runs/dit_b --config.data.data_dir=LATENTS

Without labels, 400 epochs of 1,281,167 images in batches of 1,024; ``:cond`` takes labels, 100
epochs. Published (FutureXiang/ddae_plus_plus), plain and self-conditioned: without labels FID-10k
21.26 and 20.85, linear accuracy 64.93 and 66.55 % (400 epochs), 27.76 and 26.85, 63.77 and 64.59 %
(100 epochs, ``--config.train.epochs=100``); with labels 15.51 and 14.52, 62.01 and 62.39 %, with
guidance 5.72 and 5.58.

Not yet run: this version has no autoencoder, and so neither makes nor reads latents; released
  weights convert and
sample. ``:tiny`` shows that the rest works, on digits.
"""

from ddaepp_jax.config import recipes, varied

B = dict(width=768, depth=12, num_heads=12, bottleneck="block_6")


def get_config(variant: str = ""):
    """Variants: "", "cond", "tiny"."""
    config = recipes.long_run(name="latents")
    config = recipes.lightningdit(config, epochs=400, class_conditional=False, **B)
    return varied(config, variant, cond=cond)


def cond(config):
    config.model.class_conditional = True
    config.train.epochs = 100
    return config
