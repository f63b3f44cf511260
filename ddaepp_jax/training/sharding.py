"""How a step is sharded over the device mesh: rules for its state, and activations by the batch."""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.parallel import BATCH


def path_names(tree: Any) -> list[str]:
    """Returns the leaves' paths, "network/mid/attn/qkv/kernel", in ``jax.tree.leaves``'s order."""
    return [
        "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]


def infer(tree: Any, mesh: Mesh, rules: Sequence[tuple[str, Sequence[str]]]) -> Any:
    """Returns the shardings of a tree of arrays or shapes.

    Args:
      rules: (regex, axes) pairs. A leaf follows the first rule whose regex is found in its path;
        leaves that no rule matches, and scalars, are replicated. ``axes`` holds a mesh axis, or ""
        for none, for each of the last dimensions of the leaf; ("fsdp",) alone shards a kernel's
        input channels, or else the largest dimension that the axis divides.

    Raises:
      InputError: a rule matches no leaf, names an unknown axis, or shards a dimension that the axis
        does not divide.
    """
    leaves, structure = jax.tree.flatten(tree)
    names = path_names(tree)
    used = set()
    shardings = []
    for name, leaf in zip(names, leaves, strict=True):
        number = next((i for i, (pattern, _) in enumerate(rules) if re.search(pattern, name)), None)
        used.add(number)
        replicated = number is None or leaf.ndim == 0
        spec = P() if replicated else _spec(name, leaf.shape, tuple(rules[number][1]), mesh)
        shardings.append(NamedSharding(mesh, spec))
    for number, (pattern, _) in enumerate(rules):
        if number not in used:
            raise InputError(
                f"mesh.rules: {pattern!r} matches no parameter, or earlier rules match them all; "
                f"remove it or match a path such as {names[1]!r}"
            )
    return jax.tree.unflatten(structure, shardings)


def _spec(name: str, shape: tuple[int, ...], axes: tuple[str, ...], mesh: Mesh) -> P:
    for axis in axes:
        if axis and axis not in mesh.shape:
            raise InputError(
                f"mesh.rules: no axis {axis!r}; use {', '.join(mesh.shape)}, or '' for none"
            )
    if axes == ("fsdp",):
        fits = [d for d, size in enumerate(shape) if size % mesh.shape["fsdp"] == 0]
        # A kernel of several projections can then be split on each device.
        inputs = len(shape) - 2
        best = max(fits, key=lambda d: (d == inputs, shape[d])) if fits else None
        axes = tuple("fsdp" if d == best else "" for d in range(len(shape)))
    axes = ("",) * (len(shape) - len(axes)) + axes[max(0, len(axes) - len(shape)) :]
    for size, axis in zip(shape, axes, strict=True):
        if axis and size % mesh.shape[axis]:
            raise InputError(
                f"mesh.rules: axis {axis!r} ({mesh.shape[axis]} devices) does not divide {name} "
                f"{shape}; shard another dimension"
            )
    return P(*(axis or None for axis in axes))


def compiler_options(mesh: Mesh) -> dict[str, str]:
    """Returns the XLA options with which a step on a mesh is compiled.

    The TPU compiler splits the product with a gathered parameter into a ring of products, one for
    each device's shard, to overlap them with the transfers. That takes more than twice as many
    cycles (docs/performance.md), and whole gathers are overlapped too.
    """
    if mesh.devices.flat[0].platform != "tpu" or mesh.shape["tensor"] > 1:
        return {}
    return {"xla_jf_spmd_threshold_for_windowed_einsum_mib": str(2**20)}  # no product is as large


def split_activations(mesh: Mesh) -> AbstractContextManager[None]:
    """Keeps what modules compute on, and its gradients, split by the batch.

    Within this context, the first argument and the results of each module are split along their
    first axis over the devices that share the batch. Without it, XLA also splits activations by the
    channels of a sharded parameter, and moves them between the devices. With it, a sharded
    parameter is gathered where it is used, and its gradient is summed into shards. The other axes
    stay as XLA chooses, so that parameters may be split over the axis ``tensor``.

    Networks know nothing of this. An array whose first axis the devices do not divide is left as
    it is.
    """
    (axes,) = BATCH
    devices = mesh.shape["data"] * mesh.shape["fsdp"]

    def split(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.ndim == 0 or x.shape[0] % devices:
            return x
        spec = P(axes, *(P.UNCONSTRAINED,) * (x.ndim - 1))
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    def intercept(
        method: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        if devices == 1 or context.method_name != "__call__":
            return method(*args, **kwargs)
        args = (*map(split, args[:1]), *args[1:])
        return jax.tree.map(split, method(*args, **kwargs))

    return nn.intercept_methods(intercept)
