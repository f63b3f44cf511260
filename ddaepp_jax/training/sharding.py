"""Rules that say how a state is sharded over the device mesh."""

import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ddaepp_jax.base.errors import InputError


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
        for none, for each of the last dimensions of the leaf; ("fsdp",) alone shards the largest
        dimension that the axis divides.

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
        largest = max(fits, key=lambda d: shape[d]) if fits else None
        axes = tuple("fsdp" if d == largest else "" for d in range(len(shape)))
    axes = ("",) * (len(shape) - len(axes)) + axes[max(0, len(axes) - len(shape)) :]
    for size, axis in zip(shape, axes, strict=True):
        if axis and size % mesh.shape[axis]:
            raise InputError(
                f"mesh.rules: axis {axis!r} ({mesh.shape[axis]} devices) does not divide {name} "
                f"{shape}; shard another dimension"
            )
    return P(*(axis or None for axis in axes))
