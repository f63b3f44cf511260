"""Rules that shard a state over the device mesh."""

import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ddaepp_jax.base.errors import InputError


def path_names(tree: Any) -> list[str]:
    """The leaves' paths, "network/mid/attn/qkv/kernel", in the order of ``jax.tree.leaves``."""
    return [
        "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]


def infer(tree: Any, mesh: Mesh, rules: Sequence[tuple[str, Sequence[str]]]) -> Any:
    """Shardings of a tree of arrays or shapes.

    Args:
      rules: (regex, axes), the first whose regex is found in a leaf's path counts. Axes name a mesh
        axis or "" by dimension, the last dimensions where there are fewer axes than dimensions;
        ("fsdp",) alone shards the largest dimension that the axis divides. Leaves that no rule
        matches, and scalars, are replicated.

    Raises:
      InputError: a rule matches no leaf, names an unknown axis, or asks for an axis that doesn't
        divide.
    """
    leaves, structure = jax.tree.flatten(tree)
    names, used, shardings = path_names(tree), set(), []
    for name, leaf in zip(names, leaves, strict=True):
        number = next((i for i, (pattern, _) in enumerate(rules) if re.search(pattern, name)), None)
        used.add(number)
        spec = (
            P()
            if number is None or leaf.ndim == 0
            else _spec(name, leaf.shape, tuple(rules[number][1]), mesh)
        )
        shardings.append(NamedSharding(mesh, spec))
    for number, (pattern, _) in enumerate(rules):
        if number not in used:
            raise InputError(
                f"mesh.rules: {pattern!r} matches no parameter, or earlier rules took them all; a path is {names[1]!r}"
            )
    return jax.tree.unflatten(structure, shardings)


def _spec(name: str, shape: tuple[int, ...], axes: tuple[str, ...], mesh: Mesh) -> P:
    for axis in axes:
        if axis and axis not in mesh.shape:
            raise InputError(
                f"mesh.rules: no axis {axis!r}; axes are {', '.join(mesh.shape)}, and '' for none"
            )
    if axes == ("fsdp",):
        fits = [d for d, size in enumerate(shape) if size % mesh.shape["fsdp"] == 0]
        axes = tuple(
            "fsdp" if fits and d == max(fits, key=lambda d: shape[d]) else ""
            for d in range(len(shape))
        )
    axes = ("",) * (len(shape) - len(axes)) + axes[max(0, len(axes) - len(shape)) :]
    for size, axis in zip(shape, axes, strict=True):
        if axis and size % mesh.shape[axis]:
            raise InputError(
                f"mesh.rules: axis {axis!r} ({mesh.shape[axis]} devices) does not divide {name} {shape}"
            )
    return P(*(axis or None for axis in axes))
