"""The 56.5M DDPM++ UNet with DDPM on CIFAR-10, self-conditioned; the recipe of DDAE
(arXiv 2303.09769).

    python -m ddaepp_jax.main --config=configs/unetpp_ddpm_cifar.py --workdir=runs/unetpp_ddpm_cifar

It trains for 2,000 epochs of batches of 256. Published for the plain network (FID by DDIM-100 /
linear accuracy): 3.08 / 93.97 % at the checkpoint that probes best (epoch 1,200), 2.98 / 93.03 % at
the checkpoint with the best FID. Not yet run here at full length.

``--config.model.self_condition=False`` is the plain network.
"""

from ddaepp_jax import config
from ddaepp_jax.config import recipes


def get_config(variant: str = ""):
    """Variants: "" and "tiny"."""
    run = recipes.long_run(name="cifar10")
    run.diffusion = config.ddpm(time_input="t/T")
    run.sampling.ddim.table = "ddae"
    recipes.ddae(run, epochs=2000, batch_size=256, learning_rate=4e-4, **recipes.DDPMPP)
    return config.varied(run, variant)
