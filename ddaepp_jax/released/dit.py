"""Weights of DiT (facebookresearch/DiT, models.py)."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

import einops
import numpy as np

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.models.dit import DiT, block_names
from ddaepp_jax.released.arguments import Count, Probability, Ratio, Size, arguments_of_reference
from ddaepp_jax.released.tensors import blocks, shape_of

MARKS = ("x_embedder.proj.weight", "final_layer.linear.weight", "blocks.0.mlp.fc1.weight")
LEFT_OUT = ()
GUESSED = ("num_heads", "num_classes", "learn_sigma")

# Layers by our names; {} is the number of a block.
LAYERS = {
    "patch_embed": "x_embedder.proj",
    "time_embed_1": "t_embedder.mlp.0",
    "time_embed_2": "t_embedder.mlp.2",
    "label_embed": "y_embedder.embedding_table",
    "final_norm": "final_layer.norm_final",
    "final_modulation": "final_layer.adaLN_modulation.1",
    "final_linear": "final_layer.linear",
    "blocks.modulation": "blocks.{}.adaLN_modulation.1",
}


@arguments_of_reference()
class Arguments:
    """Arguments of the reference's ``DiT``; its ``num_classes`` leaves out the null class.

    Without ``class_dropout_prob`` the reference has no null class; ours has one, whose embedding is
    zero. Without ``learn_sigma``, the half of such weights that predicts the variance is left out.
    """

    input_size: Size = 32
    patch_size: Size = 2
    in_channels: Size = 4
    hidden_size: Size = 1152
    depth: Size = 28
    num_heads: Size = 16
    mlp_ratio: Ratio = 4.0
    class_dropout_prob: Probability = 0.1
    num_classes: Count = 1000
    learn_sigma: bool = True

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images or latents."""
        return self.input_size, self.input_size, self.in_channels

    def network(self) -> DiT:
        """Builds this package's ``DiT`` with these arguments."""
        return DiT(
            patch_size=self.patch_size,
            width=self.hidden_size,
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            learn_sigma=self.learn_sigma,
            num_classes=self.num_classes,
            bottleneck=block_names(self.depth)[(self.depth - 1) // 2],
        )


def arguments(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Reads the reference's arguments off its tensors."""
    shared = shared_arguments(tensors)
    hidden, _ = shape_of(tensors, "blocks.0.mlp.fc1.weight", 2)
    return shared | dict(mlp_ratio=hidden / shared["hidden_size"])


def shared_arguments(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Reads the arguments that LightningDiT shares, except for the MLP's, off the tensors.

    Heads are taken to be 64 wide, and 72 in XL (width 1152), as in all released networks.
    """
    width, channels, patch, _ = shape_of(tensors, "x_embedder.proj.weight", 4)
    _, positions, _ = shape_of(tensors, "pos_embed", 3)
    classes, _ = shape_of(tensors, "y_embedder.embedding_table.weight", 2)
    outputs, _ = shape_of(tensors, "final_layer.linear.weight", 2)
    if (biases := shape_of(tensors, "final_layer.linear.bias", 1)) != (outputs,):
        raise InputError(
            f"tensor final_layer.linear.bias: has shape {biases}, not ({outputs},) as its weight; "
            "check the kind and the file"
        )
    head_width = 72 if width == 1152 else 64
    return dict(
        input_size=isqrt(positions) * patch,
        patch_size=patch,
        in_channels=channels,
        hidden_size=width,
        depth=blocks(tensors, "blocks"),
        num_heads=max(1, width // head_width),
        num_classes=classes - 1,
        learn_sigma=outputs == 2 * patch * patch * channels,
    )


def reference_name(network: DiT, path: tuple[str, ...]) -> str:
    """Returns the reference's name of a parameter, with ``{}`` for the number of a block.

    ``blocks, attn, qkv, kernel`` is ``blocks.{}.attn.qkv.weight``.
    """
    del network
    *modules, leaf = path
    if not modules:
        return leaf  # pos_embed
    name = ".".join(modules)
    layer = LAYERS.get(name) or name.replace("blocks.", "blocks.{}.")
    return f"{layer}.{'bias' if leaf == 'bias' else 'weight'}"


def arranged(
    network: DiT, path: tuple[str, ...], tensor: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Brings a patch's pixels into our order, and drops or adds parts that one of the two lacks.

    The variance's half of the final layer is dropped if ours has none; a null class of zeros is
    added if the reference has none.
    """
    if path == ("patch_embed", "kernel"):
        return einops.rearrange(tensor, "d c p q -> d (p q c)")
    if path[0] == "final_linear" and len(tensor) == 2 * shape[-1]:
        # A patch is (p, q, 2 C): of each pixel, first the mean, then the variance.
        pixels = network.patch_size**2
        parts = einops.rearrange(tensor, "(pq two c) ... -> two (pq c) ...", two=2, pq=pixels)
        return parts[0]
    if path[0] == "label_embed" and len(tensor) == shape[0] - 1:
        return np.concatenate([tensor, np.zeros_like(tensor[:1])])
    return tensor
