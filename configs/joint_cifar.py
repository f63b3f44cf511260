r"""A small LightningDiT on CIFAR-10 at 16x16 pixels with flow matching: the joint study's network.

    python benchmarks/resized_images.py --data_dir=TFDS_DIR --out=DIR --size=16
    python -m ddaepp_jax.main --config=configs/joint_cifar.py:plain \
        --workdir=runs/joint_plain --config.data.data_dir=DIR

The study asks whether self-conditioning and self-distillation improve the samples and the features
of the same network. Its plan is benchmarks/results/joint/PLAN.md. All variants are told how an
image was transformed (``model.augment_dim``), so that they differ in what is compared alone.
"""

from ddaepp_jax import config
from ddaepp_jax.config import recipes
from ddaepp_jax.data.geometric import AUGMENT_DIM


def get_config(variant: str = ""):
    """Variants: "" ("conditioned"), "plain", "distilled", "both", "tiny"."""
    run = recipes.long_run(name="folder")
    run.model = config.dit(**recipes.LIGHTNING, augment_dim=AUGMENT_DIM)
    run.model.update(patch_size=4, width=256, depth=6, num_heads=4, bottleneck="block_3")
    run.diffusion = config.flow(cosine_loss=False)  # the directions of three channels say little
    run.train.update(
        epochs=None,
        steps=None,
        images=1_200_000,
        batch_size=128,
        steps_per_dispatch=50,
        log_every=500,
        checkpoint_every=1_000,
    )
    run.optimizer.update(
        learning_rate=1e-3, schedule="constant", warmup_steps=500, b1=0.9, b2=0.95, weight_decay=0.0
    )
    run.ema.decays = (0.999,)
    run.sampling.update(sampler="heun_flow", steps=25, batch_size=256)
    for name in ("heldout_loss", "samples", "probe", "knn", "features"):
        run.evals[name].every = 1_000
    run.evals.samples.n = 64
    return config.varied(
        run,
        variant,
        conditioned=lambda run: run,
        plain=plain,
        distilled=lambda run: recipes.distilled(plain(run)),
        both=recipes.distilled,
    )


def plain(run):
    run.model.self_condition = False
    return run
