r"""U-ViT-S/2 on CIFAR-10 with self-conditioning; the recipe of U-ViT (arXiv 2209.12152).

    python -m ddaepp_jax.main --config=configs/uvit_cifar.py \
        --workdir=runs/uvit_cifar --config.data.data_dir=TFDS_DIR

The network has 44.8M parameters and trains for 500,000 steps of 128 images. Published for the plain
network: FID 3.11 (1000 steps of the SDE). ``:ddpm`` is the recipe of DDAE's authors
(FutureXiang/Diffusion): discrete time, 1,300 epochs of batches of 256. Published for the plain
network: FID 3.33 by DDPM-1000, 4.51 by DDIM-100. Neither has yet been run here at full length.

``:small`` trains on a CPU in minutes: 1.5M parameters, patches of 4. ``:study`` is wider and
shallower (2.7M) and learns most in minutes of two CPU cores; benchmarks/study.py compares its
variants. Its width, depth, batch and learning rate were chosen by the loss and by a probe within
the training split.

``:edm`` and ``:study_edm`` are the full network and the study's with EDM. FutureXiang/Diffusion
lists U-ViT with EDM as not working; 600 steps of ``:study_edm`` learn as they should
(docs/results.md).

``--config.model.self_condition=False`` is the plain network,
``--config.model.class_conditional=True`` uses labels.
"""

from ddaepp_jax import config
from ddaepp_jax.config import recipes


def get_config(variant: str = ""):
    """Variants: "", "ddpm", "edm", "small", "study", "study_edm", "tiny"."""
    run = recipes.uvit(recipes.long_run(name="cifar10"))
    variants = dict(ddpm=recipes.uvit_ddpm, edm=edm, small=small, study=study)
    return config.varied(run, variant, **variants, study_edm=lambda run: edm(study(run)))


def edm(run):
    run.diffusion = config.edm()
    run.sampling.update(sampler="heun", steps=18)
    return run


def small(run):
    run.diffusion = config.ddpm(time_input="999t/T")
    run.model.update(patch_size=4, width=128, depth=6, num_heads=4)
    run.train.update(
        steps=2000, batch_size=64, steps_per_dispatch=10, log_every=50, checkpoint_every=250
    )
    run.optimizer.update(learning_rate=1e-3, warmup_steps=200, clip_norm=1.0)
    run.ema.decays = (0.999,)
    run.evals.heldout_loss.update(every=500, images=256, levels=5)
    run.evals.samples.update(every=1000, n=36)
    run.evals.probe.update(every=500)
    run.evals.knn.update(every=500)
    run.evals.features.update(every=500)
    run.sampling.update(sampler="ddim", steps=50, batch_size=36)
    return run


def study(run):
    run.diffusion = config.ddpm(time_input="999t/T")
    run.model.update(patch_size=4, width=256, depth=2, num_heads=4)
    run.train.update(
        steps=1200, batch_size=32, steps_per_dispatch=10, log_every=50, checkpoint_every=200
    )
    run.optimizer.update(learning_rate=2e-3, schedule="cosine", warmup_steps=100, clip_norm=1.0)
    run.ema.decays = (0.999,)
    run.evals.heldout_loss.update(every=400, images=512, levels=5)
    run.evals.samples.update(every=1200, n=36)
    for name in ("probe", "knn", "features"):
        run.evals[name].every = 0
    run.sampling.update(sampler="ddim", steps=50, batch_size=36)
    return run
