"""The 35.7M UNet with DDPM on CIFAR-10, self-conditioned; the recipe of DDAE (arXiv 2303.09769).

    python -m ddaepp_jax.main --config=configs/unet_ddpm_cifar.py --workdir=runs/unet_ddpm_cifar

2,000 epochs of batches of 512. Published for the plain network (FID by DDIM-100 / linear accuracy):
4.09 / 90.05 % at the checkpoint that probes best (epoch 800), 3.62 / 88.23 % at the one of the best
FID; 14 hours on 4 RTX 3080 Ti. Not yet run here at full length.

``:study`` is what benchmarks/study.py compares variants on where there are two CPU cores: 3.1M
parameters, on a part of the images; the cheapest of three shapes in which every block is
conditioned. Its learning rate was not tuned.

``--config.model.self_condition=False`` is the plain network.
"""

from ddaepp_jax import config as schema
from ddaepp_jax.config import recipes


def get_config(variant: str = ""):
    """Variants: "", "study", "tiny"."""
    config = recipes.long_run(name="cifar10")
    config.diffusion = schema.ddpm(time_input="t/T")
    config.sampling.ddim.table = "ddae"
    recipes.ddae(config, epochs=2000, batch_size=512, learning_rate=4e-4)
    return schema.varied(config, variant, study=study)


def study(config):
    config.model.update(
        channels=64, mults=(1, 1, 2), attend=(False,) * 3, blocks=1, bottleneck="out_2", dropout=0.0
    )
    config.data.update(split="train[:10000]", eval_split="test[:4000]")
    config.train.update(steps=200, epochs=None, batch_size=16, log_every=20, checkpoint_every=100)
    config.optimizer.update(learning_rate=1e-3, schedule="cosine", warmup_steps=20, clip_norm=1.0)
    config.ema.decays = (0.99,)
    config.evals.heldout_loss.update(every=200, images=256, levels=5)
    config.evals.samples.update(every=200, n=36)
    for name in ("probe", "knn", "features"):
        config.evals[name].every = 0
    config.sampling.update(steps=20, batch_size=36)
    return config
