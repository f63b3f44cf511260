"""U-ViT-S/2 with labels on CIFAR-10, self-conditioned; the recipe of FutureXiang/Diffusion.

    python -m ddaepp_jax.main --config=configs/uvit_cifar_cond.py --workdir=runs/uvit_cifar_cond

1,300 epochs of batches of 256; labels are dropped with probability 0.1 for classifier-free
guidance. Published for the plain network with guidance 1.3 (there w = 0.3): FID 2.87 by DDPM-1000,
3.19 by DDIM-100 (two evaluations a step). Not yet run here at full length.

``--config.model.self_condition=False`` is the plain network.
"""

from ddaepp_jax import config as schema
from ddaepp_jax.config import recipes


def get_config(variant: str = ""):
    """Variants: "" and "tiny"."""
    config = recipes.long_run(name="cifar10")
    recipes.uvit_ddpm(config)
    config.model.class_conditional = True
    config.sampling.guidance = 1.3
    return schema.varied(config, variant)
