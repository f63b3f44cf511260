"""A small UNet on scikit-learn's 8x8 digits, self-conditioned and self-distilled: what ``make
demo`` trains.

    python -m ddaepp_jax.main --config=configs/unet_digits.py --workdir=runs/digits

2,000 steps of 64 images, 3 minutes on two CPU cores. A digit's two views are crops of half of it or
more, most with a brightness and a contrast of their own. Nothing is mirrored, and nothing blurred:
8 pixels have no sharpness to spare.
"""

from ddaepp_jax import config as schema


def get_config(variant: str = ""):
    """Variants: "" and "tiny"."""
    config = schema.get_config()
    # The widths are 32 and 64. The norms of 32 channels take a condition out again: it is read at
    # 4x4, by 64.
    config.model = schema.unet(
        channels=32, mults=(1, 2), attend=(False, True), blocks=1, dropout=0.0, bottleneck="in_2"
    )
    config.train.update(steps=2000, checkpoint_every=1000)
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100)
    config.objectives.distillation.update(
        weight=1.0, geometric=0.0, student_level=21.0, teacher_level=21.0
    )
    config.objectives.distillation.photometric.update(
        use=True, crop_min=0.5, grey=0.0, blur=(0.0, 0.0), solarise=(0.0, 0.0), flip=0.0
    )
    for name in ("heldout_loss", "samples", "probe", "knn", "features"):
        config.evals[name].every = 1000
    return schema.varied(config, variant)
