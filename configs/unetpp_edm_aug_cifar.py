r"""The 56.5M DDPM++ UNet with EDM and its augmentation on CIFAR-10, self-conditioned; the recipe of
DDAE (arXiv 2303.09769).

    python -m ddaepp_jax.main --config=configs/unetpp_edm_aug_cifar.py \
        --workdir=runs/unetpp_edm_aug_cifar

It trains for 4,000 epochs of batches of 512. The network is told how an image was transformed, so
that its samples stay clean. Published for the plain network (FID by Heun-18 / linear accuracy):
2.34 / 95.49 % at the checkpoint that probes best, 2.12 / 95.19 % at the checkpoint with the best
FID. Not yet run here at full length.

``--config.model.self_condition=False`` is the plain network.
"""

from ddaepp_jax import config
from ddaepp_jax.config import recipes


def get_config(variant: str = ""):
    """Variants: "" and "tiny"."""
    run = recipes.long_run(name="cifar10")
    run.diffusion = config.edm()
    run.data.augment = 0.12
    recipes.ddae(
        run, epochs=4000, batch_size=512, learning_rate=8e-4, augment_dim=9, **recipes.DDPMPP
    )
    return config.varied(run, variant)
