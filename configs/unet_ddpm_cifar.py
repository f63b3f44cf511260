"""The 35.7M UNet with DDPM on CIFAR-10, self-conditioned; the recipe of DDAE (arXiv 2303.09769).

    python -m ddaepp_jax.main --config=configs/unet_ddpm_cifar.py --workdir=runs/unet_ddpm_cifar

2,000 epochs of batches of 512. Published for the plain network (FID by DDIM-100 / linear accuracy): 4.09 / 90.05 % at
the checkpoint that probes best (epoch 800), 3.62 / 88.23 % at the one of the best FID; 14 hours on 4 RTX 3080 Ti. Not
yet run here at full length.

``--config.model.self_condition=False`` is the plain network.
"""

from ddaepp_jax import config as schema
from ddaepp_jax import recipes


def get_config(variant: str = ""):
    """Variants: "" and "tiny"."""
    config = recipes.long_run(name="cifar10")
    config.diffusion = schema.ddpm(time_input="t/T")
    config.sampling.ddim.table = "ddae"
    recipes.ddae(config, epochs=2000, batch_size=512, learning_rate=4e-4)
    return schema.varied(config, variant)
