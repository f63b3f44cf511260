r"""A small LightningDiT on CIFAR-10's latents by a tiny autoencoder (32 channels, f = 8).

    python -m ddaepp_jax.convert --kind=taesd
    python -m ddaepp_jax.cache_latents --autoencoder=taesd --data=cifar10 --out=latents/cifar10
    python -m ddaepp_jax.main --config=configs/latent_cifar.py --workdir=runs/latent_cifar \
        --config.data.data_dir=latents/cifar10

It is ImageNet's setting in small: latents of 4x4x32 are 16 tokens, and flow matching is the
process. With ``--size=64,64`` in the second command they are 8x8x32, 64 tokens.
"""

from ddaepp_jax import config
from ddaepp_jax.config import recipes


def get_config(variant: str = ""):
    """Variants: "", "plain", "tiny"."""
    run = recipes.long_run(name="latents")
    model = dict(width=256, depth=6, num_heads=4, bottleneck="block_3")
    run = recipes.lightningdit(run, epochs=100, class_conditional=False, **model)
    run.model.dtype = "float32"
    run.data.autoencoder = "taesd"
    run.train.update(batch_size=128, steps_per_dispatch=50, log_every=500, checkpoint_every=2_000)
    run.optimizer.update(learning_rate=1e-3, warmup_steps=500, clip_norm=1.0)
    run.ema.decays = (0.999,)
    run.sampling.update(
        sampler="heun_flow", steps=25, batch_size=256, guidance_interval=(), guidance_channels=0
    )
    for name in ("heldout_loss", "samples", "probe", "knn"):
        run.evals[name].every = 2_000
    return config.varied(run, variant, plain=plain)


def plain(run):
    run.model.self_condition = False
    return run
