"""State dicts of reference implementations, drawn by name, without the implementations."""

from types import ModuleType
from typing import Any

import jax
import numpy as np
from helpers.drawn import drawn

from ddaepp_jax.released import dit, inception_fid, lightningdit


def state_dict(family: ModuleType, **arguments: Any) -> dict[str, np.ndarray]:
    """The tensors of ``family``, one of ``ddaepp_jax.released``, for its class's arguments, in its
    names and layout.
    """
    if family in (dit, lightningdit):
        shapes = _dit_shapes(**{"learn_sigma": family is dit, **arguments})
        tensors = {name: drawn(name, shape) for name, shape in shapes.items()}
        if arguments.get("use_rope"):  # buffers, which a file holds too
            shape = (shapes["pos_embed"][1], arguments["hidden_size"] // arguments["num_heads"])
            tensors |= {
                f"feat_rope.freqs_{wave}": np.zeros(shape, np.float32) for wave in ("cos", "sin")
            }
        return tensors
    module, shape = family.module(**arguments), family.image_shape(**arguments)
    inputs = [jax.ShapeDtypeStruct((1, *shape), "float32"), jax.ShapeDtypeStruct((1,), "float32")]
    given, tensors = inputs[: 1 if family is inception_fid else 2], {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(
        jax.eval_shape(module.init, jax.random.key(0), *given)
    ):
        _, *names = (key.key for key in path)
        order = (
            {4: (3, 2, 0, 1), 2: (1, 0)}[len(leaf.shape)]
            if names[-1] == "kernel"
            else range(len(leaf.shape))
        )
        name = family.reference_name(module, tuple(names))
        tensors[name] = drawn(name, tuple(leaf.shape[axis] for axis in order))
    return tensors


def _dit_shapes(
    input_size: int,
    patch_size: int,
    in_channels: int,
    hidden_size: int,
    depth: int,
    num_heads: int,
    learn_sigma: bool,
    mlp_ratio: float = 4.0,
    num_classes: int = 1000,
    use_qknorm: bool = False,
    use_swiglu: bool = False,
    use_rope: bool = False,
    use_rmsnorm: bool = False,
    wo_shift: bool = False,
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters of DiT or LightningDiT, written down from the
    reference.
    """
    d, p, hidden, head = (
        hidden_size,
        patch_size,
        int(hidden_size * mlp_ratio),
        hidden_size // num_heads,
    )
    del use_rope  # it has no parameters
    layers = {"attn.qkv": (3 * d, d), "attn.proj": (d, d)}
    if use_swiglu:
        hidden = int(2 / 3 * hidden)
        layers |= {"mlp.w12": (2 * hidden, d), "mlp.w3": (d, hidden)}
    else:
        layers |= {"mlp.fc1": (hidden, d), "mlp.fc2": (d, hidden)}
    layers["adaLN_modulation.1"] = ((4 if wo_shift else 6) * d, d)
    layers = {
        f"blocks.{i}.{name}": shape for i in range(depth) for name, shape in layers.items()
    } | {
        "x_embedder.proj": (d, in_channels, p, p),
        "t_embedder.mlp.0": (d, 256),
        "t_embedder.mlp.2": (d, d),
        "final_layer.linear": (p * p * in_channels * (1 + learn_sigma), d),
        "final_layer.adaLN_modulation.1": (2 * d, d),
    }
    shapes = {
        "pos_embed": (1, (input_size // p) ** 2, d),
        "y_embedder.embedding_table.weight": (num_classes + 1, d),
    }
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for i in range(depth):
        if use_rmsnorm:
            shapes |= {f"blocks.{i}.{norm}.weight": (d,) for norm in ("norm1", "norm2")}
        if use_qknorm:
            for norm in ("q_norm", "k_norm"):
                shapes[f"blocks.{i}.attn.{norm}.weight"] = (head,)
                if not use_rmsnorm:
                    shapes[f"blocks.{i}.attn.{norm}.bias"] = (head,)
    return shapes | ({"final_layer.norm_final.weight": (d,)} if use_rmsnorm else {})
