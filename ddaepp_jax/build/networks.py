"""Builds the network from ``config.model``."""

import importlib.util
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from ddaepp_jax.base.choice import choose
from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.models.attention import IMPLEMENTATIONS, padding
from ddaepp_jax.models.attention import attention as attention_product
from ddaepp_jax.models.dit import DiT
from ddaepp_jax.models.remat import POLICIES
from ddaepp_jax.models.unet import UNet
from ddaepp_jax.models.uvit import UViT

NETWORKS: dict[str, type[nn.Module]] = {"uvit": UViT, "unet": UNet, "dit": DiT}


def unlabelled_network(config: ConfigDict) -> nn.Module:
    """Returns the network of ``config.model`` with ``num_classes`` 0.

    ``network`` sets the number from the data. Where ``remat`` is "auto", it is the first of
    ``remats``.
    """
    module = choose("model.name", config.model.name, NETWORKS)
    fields = {k: v for k, v in config.model.items() if k not in ("name", "class_conditional")}
    changes = {"dtype": jnp.dtype(config.model.dtype), "remat": remats(config)[0]}
    return module(**fields | changes)


def remats(config: ConfigDict) -> tuple[str, ...]:
    """Returns the policies that ``model.remat`` allows, from the most memory to the least."""
    if config.model.remat != "auto":
        return (config.model.remat,)
    # A scan keeps the results of products, but not attention's, where it may keep everything.
    return ("none", "block") if config.model.get("scan") else tuple(POLICIES)


def network(config: ConfigDict, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Returns the backbone.

    Args:
      image_shape: (H, W, C) of the data's images.
      num_classes: number of the data's classes, used if the model is class-conditional.

    Raises:
      InputError: a field of ``config.model`` is wrong, or does not fit the data.
    """
    module = unlabelled_network(config)
    for problem in module.problems():
        raise InputError(f"model.{problem}")
    if config.model.class_conditional and not num_classes:
        raise InputError("model.class_conditional: the data have no labels; set it to False")
    module = module.clone(num_classes=num_classes if config.model.class_conditional else 0)
    height, width, _ = image_shape
    try:
        shapes = module.attention_shapes(height, width)
    except ValueError as error:
        raise InputError(f"model.{error}") from None
    taken = {attention(module.attention, *shape, module.dtype) for shape in shapes}
    module = module.clone(attention=taken.pop() if len(taken) == 1 else "xla")
    if isinstance(module, DiT) and jax.default_backend() == "gpu" and module.dtype == jnp.bfloat16:
        # Tensor cores load rows of 16 bytes: at LightningDiT-L's 2,730 channels they would idle.
        module = module.clone(swiglu_multiple=8)
    return module


def attention(name: str, length: int, heads: int, head_width: int, dtype: jnp.dtype) -> str:
    """Returns the attention implementation, one of ``IMPLEMENTATIONS``.

    "auto" is "blocked" on a CPU, cuDNN's on a GPU in bfloat16 if it takes this shape, else XLA's.
    cuDNN refuses some shapes, which only a trial shows: forward and backward pass are run once.
    """
    choose("model.attention", name, ("auto", *IMPLEMENTATIONS))
    if name in ("xla", "blocked"):
        return name
    if name == "auto" and jax.default_backend() == "cpu":
        return "blocked"
    if name == "auto" and (jax.default_backend() != "gpu" or dtype != jnp.bfloat16):
        return "xla"
    x = jnp.zeros((1, heads, length + padding(length, "cudnn"), head_width), dtype)

    def product(q: jax.Array) -> jax.Array:
        return attention_product(q, q, q, "cudnn", length).astype(jnp.float32).sum()

    try:
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


def layers(network: nn.Module, image_shape: tuple[int, int, int]) -> Sequence[str]:
    """Returns the names of a network's features, in their order; nothing is computed."""
    x = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    t = jax.ShapeDtypeStruct((1,), np.float32)
    (_, features), _ = jax.eval_shape(network.init_with_output, jax.random.key(0), x, t)
    return tuple(features)


def check_trainable(config: ConfigDict) -> None:
    """Refuses a config that can be sampled from but not trained here.

    Raises:
      InputError: the network learns the variance, or wandb is not installed.
    """
    if config.logging.wandb and importlib.util.find_spec("wandb") is None:
        raise InputError("logging.wandb: wandb is not installed; pip install 'ddaepp_jax[wandb]'")
    if config.model.get("learn_sigma"):
        raise InputError(
            "model.learn_sigma: a variance is learned by the variational term, which this package "
            "does not have; set it to False (weights converted with --options=learn_sigma=False "
            "leave the variance out)"
        )
