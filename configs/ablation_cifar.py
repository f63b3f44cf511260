r"""U-ViT-S/2 on CIFAR-10 with self-conditioning and contrastive self-distillation, and DDAE++'s
ablations of both.

    python -m ddaepp_jax.main --config=configs/ablation_cifar.py:both \
        --workdir=runs/both --config.data.data_dir=DIR

The recipe is that of DDAE's authors for U-ViT (FutureXiang/Diffusion): DDPM, 1,300 epochs of
batches of 256. The variants "plain", "conditioned", "distilled" and "both" cross the two; every
other variant is "both" with one thing changed. Not yet run here at full length;
``ablation_study.py`` is the same in minutes on a CPU.
"""

from ddaepp_jax.config import recipes


def get_config(variant: str = ""):
    """Variants: "" ("both"), "tiny", and "plain", "conditioned", "distilled", "both"; "cls_token",
    "own_token", "no_augment_token", "no_scale", "mlp_projection", "earlier", "later"; "heads_1",
    "heads_2", "no_batch_norm", "level_1", "level_101", "shared", "symmetric", "flips_only",
    "photometric".
    """
    run = recipes.uvit_ddpm(recipes.long_run(name="cifar10"))
    return recipes.ablated(recipes.distilled(run, hidden=1024, embedding=256), variant)
