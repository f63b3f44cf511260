"""The 56.5M DDPM++ UNet with EDM on CIFAR-10, self-conditioned; the recipe of DDAE
(arXiv 2303.09769).

    python -m ddaepp_jax.main --config=configs/unetpp_edm_cifar.py --workdir=runs/unetpp_edm_cifar

It trains for 2,000 epochs of batches of 256. Published for the plain network (FID by Heun-18 /
linear accuracy): 2.23 / 94.50 %. Not yet run here at full length.

``--config.model.self_condition=False`` is the plain network.
"""

from ddaepp_jax import config
from ddaepp_jax.config import recipes


def get_config(variant: str = ""):
    """Variants: "" and "tiny"."""
    run = recipes.long_run(name="cifar10")
    run.diffusion = config.edm()
    recipes.ddae(run, epochs=2000, batch_size=256, learning_rate=4e-4, **recipes.DDPMPP)
    return config.varied(run, variant)
