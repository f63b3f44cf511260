"""``ablation_cifar.py`` with 2.6M parameters, minutes of CPU time a run: what benchmarks/study.py
compares.

    python -m ddaepp_jax.main --config=configs/ablation_study.py:both --workdir=runs/both --config.data.data_dir=DIR

400 steps of 32 images; the network and its learning rate are those of ``uvit_cifar.py:study``. At
the end 500 samples are scored by the classifier of the data, which is trained once where there is
none.
"""

from ddaepp_jax.config import ddpm, recipes


def get_config(variant: str = ""):
    """Variants: "" ("both"), "tiny", and "plain", "conditioned", "distilled", "both"; "cls_token",
    "own_token", "no_augment_token", "no_scale", "mlp_projection", "earlier"; "heads_1", "heads_2",
    "no_batch_norm", "level_1", "level_101", "shared", "symmetric", "flips_only", "photometric".
    """
    config = recipes.distilled(recipes.uvit_ddpm(recipes.long_run(name="cifar10")))
    config.diffusion = ddpm(time_input="999t/T")
    config.model.update(patch_size=4, width=256, depth=2, num_heads=4)
    config.train.update(steps=400, epochs=None, batch_size=32, steps_per_dispatch=10)
    config.train.update(log_every=50, checkpoint_every=200)
    config.optimizer.update(learning_rate=2e-3, schedule="cosine", warmup_steps=100)
    config.ema.decays = (0.999,)
    config.evals.heldout_loss.update(every=400, images=512, levels=5)
    config.evals.samples.update(every=400, n=36)
    config.evals.fid.update(every=400, n=500)
    config.evals.features.update(every=100, images=512)
    for name in ("probe", "knn"):
        config.evals[name].every = 0
    config.sampling.update(steps=25, batch_size=100)
    return recipes.ablated(config, variant)
