"""U-ViT-S/2 with labels on CIFAR-10, self-conditioned; the recipe of FutureXiang/Diffusion.

    python -m ddaepp_jax.main --config=configs/uvit_cifar_cond.py --workdir=runs/uvit_cifar_cond

It trains for 1,300 epochs of batches of 256; labels are dropped with probability 0.1 for
classifier-free guidance. Published for the plain network with guidance 1.3 (w = 0.3 in their
notation): FID 2.87 by DDPM-1000, 3.19 by DDIM-100 (two evaluations a step). Not yet run here at
full length.

``--config.model.self_condition=False`` is the plain network.
"""

from ddaepp_jax import config
from ddaepp_jax.config import recipes


def get_config(variant: str = ""):
    """Variants: "" and "tiny"."""
    run = recipes.long_run(name="cifar10")
    recipes.uvit_ddpm(run)
    run.model.class_conditional = True
    run.sampling.guidance = 1.3
    return config.varied(run, variant)
