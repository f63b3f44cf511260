r"""U-ViT-S/4 on Tiny-ImageNet (64x64), self-conditioned; the recipe of FutureXiang/Diffusion for
CIFAR-10.

    python -m ddaepp_jax.main --config=configs/uvit_tiny_imagenet.py \
        --workdir=runs/tiny --config.data.data_dir=DATA_DIR

Unpack the authors' zip (cs231n.stanford.edu/tiny-imagenet-200.zip) in DATA_DIR; the first start
prepares it there. It trains for 650 epochs of batches of 256, as many steps as the recipe takes on
CIFAR-10; with patches of 4 there are as many tokens. Our sources publish no figure for it. Not yet
run here at full length.

``--config.model.self_condition=False`` is the plain network.
"""

from ddaepp_jax import config
from ddaepp_jax.config import recipes


def get_config(variant: str = ""):
    """Variants: "" and "tiny"."""
    run = recipes.long_run(name="tiny_imagenet")
    run.data.update(eval_split="val")
    recipes.uvit_ddpm(run)
    run.model.patch_size = 4
    run.train.epochs = 650
    return config.varied(run, variant)
