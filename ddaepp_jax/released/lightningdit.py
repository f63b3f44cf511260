"""Weights of LightningDiT (hustvl/LightningDiT, models/lightningdit.py): a DiT's, with more
arguments.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ddaepp_jax.models.dit import DiT
from ddaepp_jax.released import dit
from ddaepp_jax.released.dit import arranged, reference_name

__all__ = ["LEFT_OUT", "MARKS", "arguments", "arranged", "image_shape", "module", "reference_name"]

MARKS = (
    "x_embedder.proj.weight",
    "final_layer.linear.weight",
    "blocks.0.adaLN_modulation.1.weight",
)
LEFT_OUT = ("feat_rope.freqs_cos", "feat_rope.freqs_sin")


def module(
    input_size: int = 32,
    patch_size: int = 2,
    in_channels: int = 32,
    hidden_size: int = 1152,
    depth: int = 28,
    num_heads: int = 16,
    mlp_ratio: float = 4.0,
    class_dropout_prob: float = 0.1,
    num_classes: int = 1000,
    learn_sigma: bool = False,
    use_qknorm: bool = False,
    use_swiglu: bool = False,
    use_rope: bool = False,
    use_rmsnorm: bool = False,
    wo_shift: bool = False,
    use_checkpoint: bool = False,
) -> DiT:
    """Our network for the reference class's arguments; see ``ddaepp_jax.released.dit.module``.

    With ``learn_sigma`` the reference computes the variance's half and drops it; ours does not
    compute it.
    """
    del learn_sigma
    plain = dit.module(
        input_size,
        patch_size,
        in_channels,
        hidden_size,
        depth,
        num_heads,
        mlp_ratio,
        class_dropout_prob,
        num_classes,
        learn_sigma=False,
    )
    return plain.clone(
        qk_norm=use_qknorm,
        swiglu=use_swiglu,
        rope=use_rope,
        rmsnorm=use_rmsnorm,
        shift=not wo_shift,
        remat=use_checkpoint,
    )


def image_shape(input_size: int = 32, in_channels: int = 32, **others: Any) -> tuple[int, int, int]:
    """(H, W, C) of the latents."""
    return dit.image_shape(input_size, in_channels, **others)


def arguments(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The reference class's arguments, read off its tensors."""
    known = dit.sizes(tensors)
    width, swiglu = known["hidden_size"], "blocks.0.mlp.w12.weight" in tensors
    hidden = (
        3 / 4 * len(tensors["blocks.0.mlp.w12.weight"])
        if swiglu
        else len(tensors["blocks.0.mlp.fc1.weight"])
    )
    for name in ("blocks.0.attn.q_norm.weight", "feat_rope.freqs_cos"):  # these tell a head's width
        if name in tensors:
            known["num_heads"] = width // tensors[name].shape[-1]
    return known | dict(
        mlp_ratio=round(hidden / width, 2),  # SwiGLU's hidden width was rounded down
        use_qknorm="blocks.0.attn.q_norm.weight" in tensors,
        use_swiglu=swiglu,
        use_rope="feat_rope.freqs_cos" in tensors,
        use_rmsnorm="blocks.0.norm1.weight" in tensors,
        wo_shift=len(tensors["blocks.0.adaLN_modulation.1.weight"]) == 4 * width,
    )
