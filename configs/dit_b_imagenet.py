r"""LightningDiT-B/1 on ImageNet's latents (VA-VAE f16d32, 16x16x32) with self-conditioning: the
setting of DDAE++ itself.

    python -m ddaepp_jax.main --config=configs/dit_b_imagenet.py \
        --workdir=runs/dit_b --config.data.data_dir=LATENTS

It trains without labels for 400 epochs of 1,281,167 images in batches of 1,024; ``:cond`` uses
labels and takes 100 epochs. Published results (FutureXiang/ddae_plus_plus), plain and
self-conditioned:

    without labels, 400 epochs   FID-10k 21.26, 20.85; linear accuracy 64.93, 66.55 %
    without labels, 100 epochs   FID-10k 27.76, 26.85; linear accuracy 63.77, 64.59 %
    with labels, 100 epochs      FID-10k 15.51, 14.52; linear accuracy 62.01, 62.39 %
    with labels and guidance     FID-10k 5.72, 5.58

``--config.train.epochs=100`` shortens the run without labels.

Not yet run. Released weights can be converted and sampled from. ``:tiny`` shows on digits that the
rest works.
"""

from ddaepp_jax import config
from ddaepp_jax.config import recipes

B = dict(width=768, depth=12, num_heads=12, bottleneck="block_6")


def get_config(variant: str = ""):
    """Variants: "", "cond", "tiny"."""
    run = recipes.imagenet_latents()
    run = recipes.lightningdit(run, epochs=400, class_conditional=False, **B)
    return config.varied(run, variant, cond=cond)


def cond(run):
    run.model.class_conditional = True
    run.train.epochs = 100
    return run
