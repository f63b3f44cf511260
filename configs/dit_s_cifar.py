r"""DiT-S/2 on CIFAR-10's pixels with self-conditioning and flow matching: a DiT that can be trained
without ImageNet.

    python -m ddaepp_jax.main --config=configs/dit_s_cifar.py \
        --workdir=runs/dit_s_cifar --config.data.data_dir=TFDS_DIR

It trains for 1,300 epochs of batches of 256. The 32.9M parameters are in LightningDiT's blocks
(arXiv 2501.01423); the optimizer is its authors', with a warm-up, clipping and a batch size of our
choice. There is no published figure for this network, process and data set, and it has not yet been
run here at full length.

``:small`` has patches of 4 and runs in 14 minutes on two CPU cores; its loss falls from 1.14 to
0.176, and linear accuracy reaches 43.6 % (docs/results.md).

``--config.model.self_condition=False`` is the plain network,
``--config.model.class_conditional=True`` uses labels.
"""

from ddaepp_jax import config
from ddaepp_jax.config import recipes


def get_config(variant: str = ""):
    """Variants: "", "small", "tiny"."""
    run = recipes.long_run(name="cifar10")
    run.model = config.dit(**recipes.LIGHTNING)
    run.diffusion = config.flow(cosine_loss=False)  # the directions of three channels say little
    run.train.update(steps=None, epochs=1300, batch_size=256)
    run.optimizer.update(
        learning_rate=2e-4,
        schedule="constant",
        warmup_steps=2000,
        b1=0.9,
        b2=0.95,
        weight_decay=0.0,
    )
    run.ema.decays = (0.9999,)
    run.sampling.update(sampler="heun_flow", steps=50)
    return config.varied(run, variant, small=small)


def small(run):
    run.model.update(patch_size=4, width=128, depth=6, num_heads=4, bottleneck="block_3")
    run.train.update(
        epochs=None,
        steps=800,
        batch_size=64,
        steps_per_dispatch=10,
        log_every=50,
        checkpoint_every=200,
    )
    run.optimizer.update(learning_rate=1e-3, schedule="cosine", warmup_steps=100)
    run.ema.decays = (0.999,)
    run.evals.heldout_loss.update(every=400, images=256, levels=5)
    run.evals.samples.update(every=400, n=36)
    run.evals.probe.update(every=400)
    run.evals.knn.update(every=400)
    run.evals.features.update(every=400)
    run.sampling.update(steps=25, batch_size=36)
    return run
