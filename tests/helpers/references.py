"""State dicts of reference implementations, drawn by name, without the implementations."""

from types import ModuleType
from typing import Any

import jax
import numpy as np
from helpers.drawn import drawn

from ddaepp_jax.released import AUTOENCODERS, dit, inception_fid, lightningdit
from ddaepp_jax.released.reference import FAMILIES

# PyTorch's axes of a kernel, in Flax's numbers.
_KERNEL_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}


def state_dict(family: ModuleType, **arguments: Any) -> dict[str, np.ndarray]:
    """Draws the tensors of a reference implementation, in its names and layout.

    Args:
      family: a module of ``ddaepp_jax.released``.
      arguments: arguments of the reference's class.
    """
    if family in (dit, lightningdit):
        return _dit_state_dict(
            lightningdit.Arguments(**{"learn_sigma": family is dit, **arguments})
        )
    reference = family.Arguments(**arguments)
    network = reference.network()
    x = jax.ShapeDtypeStruct((1, *reference.input_shape), "float32")
    t = jax.ShapeDtypeStruct((1,), "float32")
    untimed = (inception_fid, *(FAMILIES[kind] for kind in AUTOENCODERS))
    inputs = (x,) if family in untimed else (x, t)
    leaves = jax.tree_util.tree_leaves_with_path(
        jax.eval_shape(network.init, jax.random.key(0), *inputs)
    )
    tensors = {}
    for keys, leaf in leaves:
        _, *path = (key.key for key in keys)
        axes = range(len(leaf.shape))
        if path[-1] == "kernel":
            axes = _KERNEL_AXES[len(leaf.shape)]
        name = family.reference_name(network, tuple(path))
        tensors[name] = drawn(name, tuple(leaf.shape[axis] for axis in axes))
    return tensors


def _dit_state_dict(reference: lightningdit.Arguments) -> dict[str, np.ndarray]:
    """Draws the tensors of a DiT or LightningDiT."""
    shapes = _dit_shapes(reference)
    tensors = {name: drawn(name, shape) for name, shape in shapes.items()}
    if reference.use_rope:  # buffers, which a file holds too
        shape = (shapes["pos_embed"][1], reference.hidden_size // reference.num_heads)
        for wave in ("cos", "sin"):
            tensors[f"feat_rope.freqs_{wave}"] = np.zeros(shape, np.float32)
    return tensors


def _dit_shapes(reference: lightningdit.Arguments) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of the parameters, written down from the reference."""
    d = reference.hidden_size
    p = reference.patch_size
    channels = reference.in_channels
    hidden = int(d * reference.mlp_ratio)
    block = {"attn.qkv": (3 * d, d), "attn.proj": (d, d)}
    if reference.use_swiglu:
        hidden = int(2 / 3 * hidden)
        block |= {"mlp.w12": (2 * hidden, d), "mlp.w3": (d, hidden)}
    else:
        block |= {"mlp.fc1": (hidden, d), "mlp.fc2": (d, hidden)}
    block["adaLN_modulation.1"] = ((4 if reference.wo_shift else 6) * d, d)
    layers = {
        f"blocks.{i}.{name}": shape for i in range(reference.depth) for name, shape in block.items()
    }
    out_channels = 2 * channels if reference.learn_sigma else channels
    layers |= {
        "x_embedder.proj": (d, channels, p, p),
        "t_embedder.mlp.0": (d, 256),
        "t_embedder.mlp.2": (d, d),
        "final_layer.linear": (p * p * out_channels, d),
        "final_layer.adaLN_modulation.1": (2 * d, d),
    }
    shapes = {
        "pos_embed": (1, (reference.input_size // p) ** 2, d),
        "y_embedder.embedding_table.weight": (reference.num_classes + 1, d),
    }
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes | _norm_shapes(reference)


def _norm_shapes(reference: lightningdit.Arguments) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of the norms' parameters."""
    d = reference.hidden_size
    head = (d // reference.num_heads,)
    shapes = {}
    for i in range(reference.depth):
        if reference.use_rmsnorm:
            shapes |= {f"blocks.{i}.norm1.weight": (d,), f"blocks.{i}.norm2.weight": (d,)}
        for norm in ("q_norm", "k_norm") if reference.use_qknorm else ():
            shapes[f"blocks.{i}.attn.{norm}.weight"] = head
            if not reference.use_rmsnorm:
                shapes[f"blocks.{i}.attn.{norm}.bias"] = head
    if reference.use_rmsnorm:
        shapes["final_layer.norm_final.weight"] = (d,)
    return shapes
