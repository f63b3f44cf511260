"""Weights of LightningDiT (hustvl/LightningDiT, models/lightningdit.py), a DiT with options."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ddaepp_jax.models.dit import DiT
from ddaepp_jax.released import dit
from ddaepp_jax.released.arguments import Size, arguments_of_reference
from ddaepp_jax.released.dit import arranged, reference_name
from ddaepp_jax.released.tensors import has, shape_of

__all__ = ["GUESSED", "LEFT_OUT", "MARKS", "Arguments", "arguments", "arranged", "reference_name"]

MARKS = (
    "x_embedder.proj.weight",
    "final_layer.linear.weight",
    "blocks.0.adaLN_modulation.1.weight",
)
GUESSED = (*dit.GUESSED, "mlp_ratio", "use_rope")
LEFT_OUT = ("feat_rope.freqs_cos", "feat_rope.freqs_sin")  # functions of the shape


@arguments_of_reference()
class Arguments(dit.Arguments):
    """Arguments of the reference's ``LightningDiT``.

    With ``learn_sigma`` the reference computes the variance's half of the output and drops it; ours
    does not compute it.
    """

    in_channels: Size = 32
    learn_sigma: bool = False
    use_qknorm: bool = False
    use_swiglu: bool = False
    use_rope: bool = False
    use_rmsnorm: bool = False
    wo_shift: bool = False
    use_checkpoint: bool = False

    def network(self) -> DiT:
        """Builds this package's ``DiT`` with these arguments."""
        plain = super().network()
        return plain.clone(
            learn_sigma=False,
            qk_norm=self.use_qknorm,
            swiglu=self.use_swiglu,
            rope=self.use_rope,
            rmsnorm=self.use_rmsnorm,
            shift=not self.wo_shift,
            remat="block" if self.use_checkpoint else "none",
        )


def arguments(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Reads the reference's arguments off its tensors."""
    shared = dit.shared_arguments(tensors)
    width = shared["hidden_size"]
    swiglu = has(tensors, "blocks.*.mlp.w12.*")
    rope = has(tensors, "feat_rope.*")
    qk_norm = has(tensors, "blocks.*.attn.q_norm.*")
    hidden, _ = shape_of(tensors, f"blocks.0.mlp.{'w12' if swiglu else 'fc1'}.weight", 2)
    modulation, _ = shape_of(tensors, "blocks.0.adaLN_modulation.1.weight", 2)
    if swiglu:
        hidden = 3 / 4 * hidden  # w12 is two layers, each with 2/3 of the MLP's width.
    if qk_norm:  # It and the rotary embedding tell the width of a head.
        shared["num_heads"] = width // shape_of(tensors, "blocks.0.attn.q_norm.weight", 1)[0]
    if rope:
        shared["num_heads"] = width // shape_of(tensors, "feat_rope.freqs_cos", 2)[1]
    return shared | dict(
        mlp_ratio=round(hidden / width, 2),  # The reference rounds SwiGLU's hidden width down.
        use_qknorm=qk_norm,
        use_swiglu=swiglu,
        use_rope=rope,
        use_rmsnorm=has(tensors, "blocks.*.norm?.weight"),
        wo_shift=modulation == 4 * width,
    )
