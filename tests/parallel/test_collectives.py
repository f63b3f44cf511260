"""A step with sharded parameters moves parameters and gradients between devices, and nothing else.

The compiled program is read. On CPUs, XLA writes a reduce-scatter as an all-reduce and a slice.
"""

import math
import re

import jax
import pytest
from helpers.run import NO_EVALS, compiled, config

from ddaepp_jax import config as schema
from ddaepp_jax.training.sharding import path_names

BATCH = 40  # no parameter has a dimension of 40, or of 5 on each device
MOVES = ("all-to-all", "collective-permute")

NETWORKS = {
    "uvit": schema.uvit(width=32, depth=2, num_heads=2, patch_size=2),
    "dit": schema.dit(
        width=32, depth=4, num_heads=2, bottleneck="block_2", rope=True, rmsnorm=True, swiglu=True
    ),
    "unet": schema.unet(
        channels=64, mults=(1, 2), attend=(False, True), blocks=1, bottleneck="out_2"
    ),
}


def collectives(program: str) -> list[tuple[str, list[tuple[int, ...]]]]:
    """Returns the collectives of a program's text, each with the shapes of its results."""
    found = []
    pattern = r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)\("
    for result, name in re.findall(pattern, program):
        shapes = re.findall(r"\w+\[([\d,]*)\]", result)
        found.append((name, [tuple(int(n) for n in shape.split(",") if n) for shape in shapes]))
    return found


def dims(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns a shape's dimensions above 1 in ascending order, as layouts permute them."""
    return tuple(sorted(n for n in shape if n > 1))


def parts(name: str, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Returns the shapes in which a parameter is used, where that is not its own.

    Projections that share a kernel use their parts of it. On a CPU, a convolution of a doubled
    image takes four kernels.
    """
    projections = next((n for part, n in {"qkv": 3, "w12": 2}.items() if part in name), 0)
    if projections:
        part = (*shape[:-1], shape[-1] // projections)
        return [part, part[1:]]
    if len(shape) == 4 and "up_" in name:
        return [(2, 2, *shape[2:]), (2, 2, 2, 2, *shape[2:])]
    return []


@pytest.mark.parametrize(
    ("name", "in_parts"),
    [
        ("uvit", 1),
        ("dit", 1),
        pytest.param("unet", 1, marks=pytest.mark.slow),
        pytest.param("uvit", 5, marks=pytest.mark.slow),
        pytest.param("dit", 5, marks=pytest.mark.slow),
    ],
)
def test_only_parameters_and_gradients_move(name: str, in_parts: int) -> None:
    tiny = config(**NO_EVALS, train__batch_size=BATCH, optimizer__weight_decay=0.0)
    tiny.train.accumulate = in_parts
    tiny.model = NETWORKS[name]
    program, _, _ = compiled(tiny, (1, 8, 1))
    leaves = jax.tree.leaves(program.state.params)
    names = path_names(program.state.params)
    shapes = [leaf.shape for leaf in leaves]
    # A scan takes one block of the stack, and a product takes a convolution's kernel as a matrix.
    own = {dims(shape) for shape in shapes} | {dims(shape[1:]) for shape in shapes if shape}
    own |= {dims((math.prod(shape[:-1]), shape[-1])) for shape in shapes if shape}
    own |= {dims(shape) for path in zip(names, shapes, strict=True) for shape in parts(*path)}
    gathers = 0
    for kind, results in collectives(program.run.as_text()):
        assert kind not in MOVES
        for shape in results:
            assert dims(shape) in own or dims(shape) == (), (kind, shape)
        gathers += kind == "all-gather"
    # A parameter is gathered once in the forward and once in the backward pass at most.
    sharded = [leaf for leaf in leaves if any(leaf.sharding.spec)]
    assert len(sharded) // 2 < gathers <= 2 * len(sharded)
