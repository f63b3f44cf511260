"""U-ViT-S/4 on Tiny-ImageNet (64x64), self-conditioned; the recipe of FutureXiang/Diffusion for
CIFAR-10.

    python -m ddaepp_jax.main --config=configs/uvit_tiny_imagenet.py --workdir=runs/tiny --config.data.data_dir=DATA_DIR

The zip of the set, from its authors (cs231n.stanford.edu/tiny-imagenet-200.zip), unpacked in
DATA_DIR; the first start prepares it there. 650 epochs of batches of 256, as many steps as there;
patches of 4, so that there are as many tokens. Our sources publish no figure for it. Not yet run
here at full length.

``--config.model.self_condition=False`` is the plain network.
"""

from ddaepp_jax import config as schema
from ddaepp_jax.config import recipes


def get_config(variant: str = ""):
    """Variants: "" and "tiny"."""
    config = recipes.long_run(name="tiny_imagenet")
    config.data.update(eval_split="val")
    recipes.uvit_ddpm(config)
    config.model.patch_size = 4
    config.train.epochs = 650
    return schema.varied(config, variant)
