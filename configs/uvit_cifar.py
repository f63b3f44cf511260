"""U-ViT-S/2 on CIFAR-10 with self-conditioning; the recipe of U-ViT (arXiv 2209.12152).

    python -m ddaepp_jax.main --config=configs/uvit_cifar.py --workdir=runs/uvit_cifar --config.data.data_dir=TFDS_DIR

500,000 steps of 128 images; 44.8M parameters. Published for the plain network: FID 3.11 (1000 steps
of the SDE). ``:ddpm`` is DDAE's authors' recipe (FutureXiang/Diffusion): discrete time, 1,300
epochs of 256; published for the plain network: FID 3.33 by DDPM-1000, 4.51 by DDIM-100. Neither has
yet been run here at full length.

``:small`` is what a CPU can show in minutes: 1.5M parameters, patches of 4. ``:study`` is what
benchmarks/study.py compares variants on: a wider, shallower one (2.6M) that learns most in minutes
  of two CPU cores; its width, depth,
batch and learning rate were chosen by the loss and by a probe within the training split.

``:edm`` and ``:study_edm`` are the whole and the study's network with EDM. FutureXiang/Diffusion
lists this pair as not working; 600 steps of ``:study_edm`` learn as they should (README).

``--config.model.self_condition=False`` is the plain network,
``--config.model.class_conditional=True`` takes labels.
"""

from ddaepp_jax import config as schema
from ddaepp_jax.config import recipes


def get_config(variant: str = ""):
    """Variants: "", "ddpm", "edm", "small", "study", "study_edm", "tiny"."""
    config = recipes.uvit(recipes.long_run(name="cifar10"))
    variants = dict(ddpm=recipes.uvit_ddpm, edm=edm, small=small, study=study)
    return schema.varied(config, variant, **variants, study_edm=lambda config: edm(study(config)))


def edm(config):
    config.diffusion = schema.edm()
    config.sampling.update(sampler="heun", steps=18)
    return config


def small(config):
    config.diffusion = schema.ddpm(time_input="999t/T")
    config.model.update(patch_size=4, width=128, depth=6, num_heads=4)
    config.train.update(
        steps=2000, batch_size=64, steps_per_dispatch=10, log_every=50, checkpoint_every=250
    )
    config.optimizer.update(learning_rate=1e-3, warmup_steps=200, clip_norm=1.0)
    config.ema.decays = (0.999,)
    config.evals.heldout_loss.update(every=500, images=256, levels=5)
    config.evals.samples.update(every=1000, n=36)
    config.evals.probe.update(every=500)
    config.evals.knn.update(every=500)
    config.evals.features.update(every=500)
    config.sampling.update(sampler="ddim", steps=50, batch_size=36)
    return config


def study(config):
    config.diffusion = schema.ddpm(time_input="999t/T")
    config.model.update(patch_size=4, width=256, depth=2, num_heads=4)
    config.train.update(
        steps=1200, batch_size=32, steps_per_dispatch=10, log_every=50, checkpoint_every=200
    )
    config.optimizer.update(learning_rate=2e-3, schedule="cosine", warmup_steps=100, clip_norm=1.0)
    config.ema.decays = (0.999,)
    config.evals.heldout_loss.update(every=400, images=512, levels=5)
    config.evals.samples.update(every=1200, n=36)
    for name in ("probe", "knn", "features"):
        config.evals[name].every = 0
    config.sampling.update(sampler="ddim", steps=50, batch_size=36)
    return config
