"""The 35.7M UNet with DDPM on CIFAR-10, self-conditioned; the recipe of DDAE (arXiv 2303.09769).

    python -m ddaepp_jax.main --config=configs/unet_ddpm_cifar.py --workdir=runs/unet_ddpm_cifar

It trains for 2,000 epochs of batches of 512. Published for the plain network (FID by DDIM-100 /
linear accuracy): 4.09 / 90.05 % at the checkpoint that probes best (epoch 800), 3.62 / 88.23 % at
the checkpoint with the best FID; 14 hours on 4 RTX 3080 Ti. Not yet run here at full length.

``:study`` has 3.1M parameters and trains on a part of the images; benchmarks/study.py compares its
variants on two CPU cores. It is the cheapest of three shapes in which every block is conditioned.
Its learning rate was not tuned.

``--config.model.self_condition=False`` is the plain network.
"""

from ddaepp_jax import config
from ddaepp_jax.config import recipes


def get_config(variant: str = ""):
    """Variants: "", "study", "tiny"."""
    run = recipes.long_run(name="cifar10")
    run.diffusion = config.ddpm(time_input="t/T")
    run.sampling.ddim.table = "ddae"
    recipes.ddae(run, epochs=2000, batch_size=512, learning_rate=4e-4)
    return config.varied(run, variant, study=study)


def study(run):
    run.model.update(
        channels=64, mults=(1, 1, 2), attend=(False,) * 3, blocks=1, bottleneck="out_2", dropout=0.0
    )
    run.data.update(split="train[:10000]", eval_split="test[:4000]")
    run.train.update(steps=200, epochs=None, batch_size=16, log_every=20, checkpoint_every=100)
    run.optimizer.update(learning_rate=1e-3, schedule="cosine", warmup_steps=20, clip_norm=1.0)
    run.ema.decays = (0.99,)
    run.evals.heldout_loss.update(every=200, images=256, levels=5)
    run.evals.samples.update(every=200, n=36)
    for name in ("probe", "knn", "features"):
        run.evals[name].every = 0
    run.sampling.update(steps=20, batch_size=36)
    return run
