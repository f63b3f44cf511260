"""U-ViT-S/2 on CIFAR-100, self-conditioned; the recipe of FutureXiang/Diffusion for CIFAR-10.

    python -m ddaepp_jax.main --config=configs/uvit_cifar100.py --workdir=runs/uvit_cifar100

It trains for 1,300 epochs of batches of 256. Our sources publish no figure for it. Not yet run here
at full length.

``--config.model.self_condition=False`` is the plain network.
"""

from ddaepp_jax import config
from ddaepp_jax.config import recipes


def get_config(variant: str = ""):
    """Variants: "" and "tiny"."""
    run = recipes.long_run(name="cifar100")
    recipes.uvit_ddpm(run)
    return config.varied(run, variant)
