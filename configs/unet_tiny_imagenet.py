"""The 35.7M UNet with EDM on Tiny-ImageNet (64x64), self-conditioned; the recipe of DDAE for
CIFAR-10.

    python -m ddaepp_jax.main --config=configs/unet_tiny_imagenet.py --workdir=runs/tiny --config.data.data_dir=DATA_DIR

The zip of the set, from its authors (cs231n.stanford.edu/tiny-imagenet-200.zip), unpacked in
DATA_DIR; the first start prepares it there. 1,000 epochs of batches of 512. Our sources publish no
figure for it. Not yet run here at full length.

``--config.model.self_condition=False`` is the plain network.
"""

from ddaepp_jax import config as schema
from ddaepp_jax.config import recipes


def get_config(variant: str = ""):
    """Variants: "" and "tiny"."""
    config = recipes.long_run(name="tiny_imagenet")
    config.data.update(eval_split="val")
    config.diffusion = schema.edm()
    recipes.ddae(config, epochs=1000, batch_size=512, learning_rate=4e-4, images=100_000)
    return schema.varied(config, variant)
