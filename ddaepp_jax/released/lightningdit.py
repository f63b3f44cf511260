"""Weights of LightningDiT (hustvl/LightningDiT, models/lightningdit.py), a DiT with options."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ddaepp_jax.models.dit import DiT
from ddaepp_jax.released import dit
from ddaepp_jax.released.dit import arranged, reference_name

__all__ = ["LEFT_OUT", "MARKS", "Arguments", "arguments", "arranged", "reference_name"]

MARKS = (
    "x_embedder.proj.weight",
    "final_layer.linear.weight",
    "blocks.0.adaLN_modulation.1.weight",
)
LEFT_OUT = ("feat_rope.freqs_cos", "feat_rope.freqs_sin")  # functions of the shape


@dataclasses.dataclass(frozen=True)
class Arguments(dit.Arguments):
    """Arguments of the reference's ``LightningDiT``.

    With ``learn_sigma`` the reference computes the variance's half of the output and drops it; ours
    does not compute it.
    """

    in_channels: int = 32
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
            remat=self.use_checkpoint,
        )


def arguments(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Reads the reference's arguments off its tensors."""
    shared = dit.shared_arguments(tensors)
    width = shared["hidden_size"]
    swiglu = "blocks.0.mlp.w12.weight" in tensors
    hidden = len(tensors["blocks.0.mlp.w12.weight" if swiglu else "blocks.0.mlp.fc1.weight"])
    if swiglu:
        hidden = 3 / 4 * hidden  # w12 is two layers, each with 2/3 of the MLP's width.
    for name in ("blocks.0.attn.q_norm.weight", "feat_rope.freqs_cos"):  # both tell a head's width
        if name in tensors:
            shared["num_heads"] = width // tensors[name].shape[-1]
    return shared | dict(
        mlp_ratio=round(hidden / width, 2),  # The reference rounds SwiGLU's hidden width down.
        use_qknorm="blocks.0.attn.q_norm.weight" in tensors,
        use_swiglu=swiglu,
        use_rope="feat_rope.freqs_cos" in tensors,
        use_rmsnorm="blocks.0.norm1.weight" in tensors,
        wo_shift=len(tensors["blocks.0.adaLN_modulation.1.weight"]) == 4 * width,
    )
