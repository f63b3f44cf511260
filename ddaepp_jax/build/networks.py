"""``config.model`` becomes a network."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from ddaepp_jax import config as schema
from ddaepp_jax.base.choice import choose
from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.config import validation
from ddaepp_jax.models import dit, unet, uvit
from ddaepp_jax.models.dit import DiT
from ddaepp_jax.models.self_conditioning import PROJECTIONS
from ddaepp_jax.models.unet import UNet
from ddaepp_jax.models.uvit import UViT


def network(config: ConfigDict, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """The backbone; ``num_classes`` is the data's, used where the model is class-conditional."""
    model = config.model
    make = choose("model.name", model.name, {"uvit": _uvit, "unet": _unet, "dit": _dit})
    validation.check_names("model.", model, schema.MODELS[model.name]())
    return make(model, image_shape, num_classes)


def _uvit(model: ConfigDict, image_shape: tuple[int, int, int], num_classes: int) -> UViT:
    height, width, _ = image_shape
    _check_patches(model, height, width)
    if model.width < 1 or model.num_heads < 1 or model.width % (2 * model.num_heads):
        raise InputError(
            f"model.width: {model.width} is not a multiple of 2 * model.num_heads ({model.num_heads})"
        )
    if model.depth < 2 or model.depth % 2:
        raise InputError(
            f"model.depth: {model.depth} is not a positive even number (blocks in and out, without mid)"
        )
    names = uvit.block_names(model.depth)
    _check_self_conditioning(model, names, names[-1])
    choose("model.pool", model.pool, ("mean", "cls"))
    choose("model.inject", model.inject, ("add", "token"))
    extras = 1 + model.class_conditional + (model.augment_dim > 0) + (model.pool == "cls")
    length = (height // model.patch_size) * (width // model.patch_size) + extras
    return UViT(
        **_fields(model, num_classes, [(length, model.num_heads, model.width // model.num_heads)])
    )


def _dit(model: ConfigDict, image_shape: tuple[int, int, int], num_classes: int) -> DiT:
    height, width, _ = image_shape
    _check_patches(model, height, width)
    heads, each = model.num_heads, 4 if model.rope else 1
    if model.width < 1 or heads < 1 or model.width % (each * heads) or model.width % 4:
        raise InputError(
            f"model.width: {model.width} is not a multiple of 4, or not of {each} * model.num_heads ({heads})"
        )
    if model.depth < 1:
        raise InputError(f"model.depth: {model.depth} is not positive")
    _check_self_conditioning(model, dit.block_names(model.depth))
    length = (height // model.patch_size) * (width // model.patch_size)
    return DiT(**_fields(model, num_classes, [(length, heads, model.width // heads)]))


def _check_patches(model: ConfigDict, height: int, width: int) -> None:
    if model.mlp_ratio <= 0:
        raise InputError(f"model.mlp_ratio: {model.mlp_ratio} is not positive")
    if model.patch_size < 1 or height % model.patch_size or width % model.patch_size:
        raise InputError(
            f"model.patch_size: {model.patch_size} does not divide images of {height}x{width}"
        )


def _unet(model: ConfigDict, image_shape: tuple[int, int, int], num_classes: int) -> UNet:
    height, width, _ = image_shape
    levels = len(model.mults)
    if not levels or min(model.mults) < 1 or len(model.attend) != levels:
        raise InputError(
            f"model.attend, mults: {model.attend}, {model.mults}: give one value each a resolution"
        )
    if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
        raise InputError(
            f"model.mults: {levels} resolutions halve images of {height}x{width} to fractions; give fewer"
        )
    if model.channels < 32 or model.channels % 32:
        raise InputError(
            f"model.channels: {model.channels} is not a multiple of 32, the groups of its norms"
        )
    if model.blocks < 1:
        raise InputError(f"model.blocks: {model.blocks} is not positive")
    if not 0 <= model.dropout < 1:
        raise InputError(f"model.dropout: {model.dropout} is not in [0, 1)")
    # Where there is attention: its resolutions, and the middle, which has the lowest.
    attending = [i for i, attends in enumerate(model.attend) if attends] + [levels - 1]
    widths = {i: model.channels * model.mults[i] for i in attending}
    if model.head_channels < 0 or any(
        model.head_channels and w % model.head_channels for w in widths.values()
    ):
        raise InputError(
            f"model.head_channels: {model.head_channels} does not divide {sorted(widths.values())}"
        )
    names = unet.block_names(model.mults, model.blocks)
    _check_self_conditioning(model, names, names[-1])
    head_widths = {i: model.head_channels or w for i, w in widths.items()}
    products = [
        ((height >> i) * (width >> i), widths[i] // head_widths[i], head_widths[i]) for i in widths
    ]
    return UNet(**_fields(model, num_classes, products))


def _check_self_conditioning(model: ConfigDict, names: Sequence[str], last: str = "") -> None:
    """``last``: a block that nothing follows that could be conditioned."""
    choose("model.bottleneck", model.bottleneck, names)
    if model.self_condition and model.bottleneck == last:
        raise InputError(
            f"model.bottleneck: no block follows {last!r} to be conditioned; choose an earlier one"
        )
    choose("model.projection", model.projection, PROJECTIONS)


def _fields(
    model: ConfigDict, num_classes: int, products: Sequence[tuple[int, int, int]]
) -> dict[str, Any]:
    """A module's arguments; ``products`` are the (length, heads, head width) of its attention."""
    fields = {k: v for k, v in model.items() if k not in ("name", "class_conditional")}
    if model.augment_dim < 0:
        raise InputError(f"model.augment_dim: {model.augment_dim} is negative; 0 is none")
    dtype = jnp.dtype(model.dtype)
    taken = {attention(model.attention, *product, dtype) for product in products}
    return fields | {
        "num_classes": _labels(model, num_classes),
        "attention": "xla" if "xla" in taken else "cudnn",
        "dtype": dtype,
    }


def _labels(model: ConfigDict, num_classes: int) -> int:
    if model.class_conditional and not num_classes:
        raise InputError("model.class_conditional: the data have no labels; set it to False")
    return num_classes if model.class_conditional else 0


def attention(name: str, length: int, heads: int, head_width: int, dtype: jnp.dtype) -> str:
    """The attention implementation: "auto" is cuDNN's on a GPU in bfloat16 where it takes this
    shape, else XLA's.

    cuDNN refuses some shapes, and only trying tells: forward and backward are run once.
    """
    choose("model.attention", name, ("auto", "xla", "cudnn"))
    if name == "xla" or (
        name == "auto" and (jax.default_backend() != "gpu" or dtype != jnp.bfloat16)
    ):
        return "xla"
    x = jnp.zeros((1, length, heads, head_width), dtype)
    try:
        product = lambda q: (
            jax.nn.dot_product_attention(q, q, q, implementation="cudnn").astype(jnp.float32).sum()
        )
        jax.block_until_ready(jax.jit(jax.grad(product))(x))
    except Exception as error:
        reason = first_line(error)
        if name == "cudnn":
            raise InputError(
                f"model.attention: cudnn does not take this shape here ({reason}); use xla"
            ) from error
        print(f"attention: cuDNN does not take this shape here, XLA's is used ({reason})")
        return "xla"
    return "cudnn"


def layers(network: nn.Module, image_shape: tuple[int, int, int]) -> tuple[str, ...]:
    """Names of a network's features, in their order; nothing is computed."""
    x, t = (
        jax.ShapeDtypeStruct((1, *image_shape), np.float32),
        jax.ShapeDtypeStruct((1,), np.float32),
    )
    return tuple(jax.eval_shape(network.init_with_output, jax.random.key(0), x, t)[0][1])


def check_trainable(config: ConfigDict) -> None:
    """Refuse a network that can be sampled from but not trained."""
    if config.model.get("learn_sigma"):
        raise InputError(
            "model.learn_sigma: a variance is learned by the variational term, which is not here; set it to False "
            "(converted with --options=learn_sigma=False, such weights leave the variance out)"
        )
