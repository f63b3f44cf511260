"""The printout of a dry run."""

import jax
from ml_collections import ConfigDict

from ddaepp_jax.config import saved
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.training.program import Program


def describe(config: ConfigDict, program: Program, data: Dataset, total: int) -> None:
    """Prints the config, the parameters, their sharding, the data, and the memory.

    Args:
      config: the run's config.
      program: the compiled train program.
      data: the training split.
      total: number of steps.
    """
    from clu import parameter_overview

    print(saved.to_json(config), end="")
    params = program.state.params
    leaves = zip(program.leaf_names, jax.tree.leaves(params), strict=True)
    sharded = [
        f"  {name}: {leaf.sharding.spec}" for name, leaf in leaves if any(leaf.sharding.spec)
    ]
    print(parameter_overview.get_parameter_overview(params, include_stats=False))
    print("sharding (others are replicated):")
    print("\n".join(sharded) or "  none")
    print(
        f"data: {data.name} {data.split}, {len(data)} images of {data.image_shape}, "
        f"{gigabytes(data.nbytes)} as {data.dtype}"
    )
    print(f"steps: {total}, {total * config.train.batch_size / len(data):.1f} epochs")
    print(f"memory: {gigabytes(program.memory)} a device, by the compiler; {flops(program)}")


def gigabytes(n: int) -> str:
    """Formats a number of bytes."""
    return f"{n / 2**30:.2f} GiB" if n >= 2**29 else f"{n / 2**20:.1f} MiB"


def flops(program: Program) -> str:
    """Formats the floating-point operations of a step on one device."""
    return f"{program.flops / 1e9:.2f} GFLOP a step and device"
