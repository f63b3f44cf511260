r"""The 35.7M UNet with EDM on Tiny-ImageNet (64x64), self-conditioned; DDAE's recipe for CIFAR-10.

    python -m ddaepp_jax.main --config=configs/unet_tiny_imagenet.py \
        --workdir=runs/tiny --config.data.data_dir=DATA_DIR

Unpack the authors' zip (cs231n.stanford.edu/tiny-imagenet-200.zip) in DATA_DIR; the first start
prepares it there. It trains for 1,000 epochs of batches of 512. Our sources publish no figure for
it. Not yet run here at full length.

``--config.model.self_condition=False`` is the plain network.
"""

from ddaepp_jax import config
from ddaepp_jax.config import recipes


def get_config(variant: str = ""):
    """Variants: "" and "tiny"."""
    run = recipes.long_run(name="tiny_imagenet")
    run.data.update(eval_split="val")
    run.diffusion = config.edm()
    recipes.ddae(run, epochs=1000, batch_size=512, learning_rate=4e-4, images=100_000)
    return config.varied(run, variant)
