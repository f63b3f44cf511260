"""A small UNet on scikit-learn's 8x8 digits, self-conditioned and self-distilled; ``make demo``
trains it.

    python -m ddaepp_jax.main --config=configs/unet_digits.py --workdir=runs/digits

It trains for 2,000 steps of 64 images, 3 minutes on two CPU cores. The two views of a digit are
crops of half of its area or more, most with a brightness and a contrast of their own. Views are not
mirrored, and not blurred either: 8 pixels have no sharpness to spare.

``:vp`` and ``:edm`` train the network without self-distillation, in continuous time and with EDM;
benchmarks/fast_sampling.py compares samplers on them.
"""

from ddaepp_jax import config


def get_config(variant: str = ""):
    """Variants: "", "vp", "edm", "tiny"."""
    run = config.get_config()
    # The widths are 32 and 64. The norms of 32 channels would take the condition out again, so it
    # is read at 4x4, by blocks of 64.
    run.model = config.unet(
        channels=32, mults=(1, 2), attend=(False, True), blocks=1, dropout=0.0, bottleneck="in_2"
    )
    run.train.update(steps=2000, checkpoint_every=1000)
    run.optimizer.update(learning_rate=2e-3, warmup_steps=100)
    run.objectives.distillation.update(
        weight=1.0, geometric=0.0, student_level=21.0, teacher_level=21.0
    )
    run.objectives.distillation.photometric.update(
        use=True, crop_min=0.5, grey=0.0, blur=(0.0, 0.0), solarise=(0.0, 0.0), flip=0.0
    )
    for name in ("heldout_loss", "samples", "probe", "knn", "features"):
        run.evals[name].every = 1000
    return config.varied(run, variant, vp=vp, edm=edm)


def vp(run):
    run.diffusion = config.vp(time_input="t")
    run.objectives.distillation.weight = 0.0
    return run


def edm(run):
    run.diffusion = config.edm()
    run.objectives.distillation.weight = 0.0
    run.sampling.update(sampler="heun", steps=18)
    return run
