r"""``ablation_cifar.py`` with 2.7M parameters, in minutes of CPU time a run; benchmarks/study.py
compares its variants.

    python -m ddaepp_jax.main --config=configs/ablation_study.py:both \
        --workdir=runs/both --config.data.data_dir=DIR

A run takes 400 steps of 32 images; the network and its learning rate are those of
``uvit_cifar.py:study``. At the end 500 samples are scored by the classifier of the data, which is
trained first if there is none.
"""

from ddaepp_jax import config
from ddaepp_jax.config import recipes


def get_config(variant: str = ""):
    """Variants: "" ("both"), "tiny", and "plain", "conditioned", "distilled", "both"; "cls_token",
    "own_token", "no_augment_token", "no_scale", "mlp_projection", "earlier"; "heads_1", "heads_2",
    "no_batch_norm", "level_1", "level_101", "shared", "symmetric", "flips_only", "photometric".
    """
    run = recipes.distilled(recipes.uvit_ddpm(recipes.long_run(name="cifar10")))
    run.diffusion = config.ddpm(time_input="999t/T")
    run.model.update(patch_size=4, width=256, depth=2, num_heads=4)
    run.train.update(steps=400, epochs=None, batch_size=32, steps_per_dispatch=10)
    run.train.update(log_every=50, checkpoint_every=200)
    run.optimizer.update(learning_rate=2e-3, schedule="cosine", warmup_steps=100)
    run.ema.decays = (0.999,)
    run.evals.heldout_loss.update(every=400, images=512, levels=5)
    run.evals.samples.update(every=400, n=36)
    run.evals.fid.update(every=400, n=500)
    run.evals.features.update(every=100, images=512)
    for name in ("probe", "knn"):
        run.evals[name].every = 0
    run.sampling.update(steps=25, batch_size=100)
    return recipes.ablated(run, variant)
