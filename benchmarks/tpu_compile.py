r"""Compiles the train steps of published networks for a TPU that need not be present.

    TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu python benchmarks/tpu_compile.py \
        --topology=v5e:2x2 --network=dit_xl --network=uvit_s
    TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu python benchmarks/tpu_compile.py \
        --topology=v5e:2x4 --chips=8 --network=lightningdit_b

It needs libtpu. The step runs in bfloat16 on ``--batch_size`` images a chip, on one chip or with
parameters sharded over several (mesh.fsdp). Its estimated cycles are the compiler's: the sum over
the operations of the compiled program, a loop's body as often as it runs, without communication.
They stand beside two floors in cycles of the same chip: the FLOPs over the peak rate, and the bytes
of the state and the batch, read and written once, over the memory's bandwidth. Of the operations
that move data between chips, a loop's body counts once. Rows are appended to ``--out``, by default
benchmarks/results/tpu_compile.jsonl, as JSON lines.
"""

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddaepp_jax import build, config
from ddaepp_jax.base import parallel
from ddaepp_jax.config import recipes
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.training.flops import step_flops
from ddaepp_jax.training.program import Program, compile_program
from ddaepp_jax.training.source import streamed
from ddaepp_jax.training.step import init_state


class Chip(NamedTuple):
    """Public figures of a chip: bfloat16 FLOPs and bytes of memory in a cycle, and its clock.

    A v5e has 4 units of 128 x 128 multiply-adds and 819 GB/s, a v5p 8 units and 2765 GB/s.
    """

    flops: float
    bytes: float
    hertz: float


CHIPS = {
    "v5e": Chip(4 * 2 * 128**2, 819e9 / 1.5e9, 1.5e9),
    "v5p": Chip(8 * 2 * 128**2, 2765e9 / 1.75e9, 1.75e9),
}
Shape = tuple[int, int, int]


def _dit(**model: Any) -> ConfigDict:
    made = recipes.dit(config.get_config())
    made.model.update(model)
    return made


def _lightningdit(**model: Any) -> ConfigDict:
    return recipes.lightningdit(config.get_config(), epochs=1, class_conditional=True, **model)


# The network's config, without self-conditioning, and the shape of its images or latents.
NETWORKS: dict[str, tuple[Callable[[], ConfigDict], Shape]] = {
    "uvit_s": (lambda: recipes.uvit(config.get_config()), (32, 32, 3)),
    "unet": (
        lambda: recipes.ddae(config.get_config(), epochs=1, batch_size=1, learning_rate=1e-4),
        (32, 32, 3),
    ),
    "ddpmpp": (
        lambda: recipes.ddae(
            config.get_config(), epochs=1, batch_size=1, learning_rate=1e-4, **recipes.DDPMPP
        ),
        (32, 32, 3),
    ),
    "dit_b": (lambda: _dit(width=768, depth=12, num_heads=12, bottleneck="block_6"), (32, 32, 4)),
    "dit_l": (lambda: _dit(width=1024, depth=24, num_heads=16, bottleneck="block_12"), (32, 32, 4)),
    "dit_xl": (_dit, (32, 32, 4)),
    "lightningdit_b": (
        lambda: _lightningdit(width=768, depth=12, num_heads=12, bottleneck="block_6"),
        (16, 16, 32),
    ),
    "lightningdit_l": (
        lambda: _lightningdit(width=1024, depth=24, num_heads=16, bottleneck="block_12"),
        (16, 16, 32),
    ),
    "lightningdit_xl": (
        lambda: _lightningdit(width=1152, depth=28, num_heads=16, bottleneck="block_14"),
        (16, 16, 32),
    ),
}


def program(made: ConfigDict, shape: Shape, mesh: Mesh) -> Program:
    """Compiles the step of a config on a streamed batch."""
    names = tuple(map(str, range(1000 if made.model.class_conditional else 10)))
    data = Dataset("none", "train", shape, len(names), names, 1_281_167, lambda rows: ())
    learner = build.learner(made, shape, len(names), total=1000)
    source = streamed(data, 0, made.train.batch_size, mesh, threads=1)
    return compile_program(learner, mesh, made.mesh.rules, source, build.prepare(made))


def computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Returns the lines of each computation of a compiled program, and the entry's name."""
    lines: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head:
            name = head[2]
            lines[name] = []
            entry = name if head[1] else entry
        elif name:
            lines[name].append(line)
    return lines, entry


def estimated_cycles(text: str) -> Counter[str]:
    """Sums a compiled program's estimated cycles by the source operation that they belong to.

    A loop's body counts as often as the constant of its condition says, and of a conditional the
    branch that takes longest. A kernel that is not the compiler's own has no estimate.
    """
    lines, entry = computations(text)

    def total(name: str) -> Counter[str]:
        cycles: Counter[str] = Counter()
        for line in lines[name]:
            if loop := re.search(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)", line):
                constants = re.findall(r"constant\((\d+)\)", "\n".join(lines[loop[1]]))
                times = max(map(int, constants))
                cycles.update({k: times * v for k, v in total(loop[2]).items()})
            elif branches := re.search(r"branch_computations=\{([^}]*)\}", line):
                names = [branch.strip(" %") for branch in branches[1].split(",")]
                cycles.update(max(map(total, names), key=lambda counted: counted.total()))
            elif estimate := re.search(r'"estimated_cycles":"(\d+)"', line):
                source = re.search(r'op_name="([^"]*)"', line)
                cycles[_operation(source[1] if source else "")] += int(estimate[1])
        return cycles

    return total(entry)


def _operation(name: str) -> str:
    """Returns the module and the primitive of an operation's name, and its pass."""
    parts = [part for part in name.split("/") if not part.startswith(("while", "body", "closed"))]
    backward = "backward " if "transpose" in name else ""
    return backward + "/".join(parts[-2:]) if parts else "other"


BYTES = {"bf16": 2, "f16": 2, "pred": 1, "s8": 1, "u8": 1}  # of an element; others have 4


def collectives(text: str) -> dict[str, dict[str, float]]:
    """Returns the number and MiB of the operations that move data between chips, by kind.

    Of an operation with several arrays the largest one counts.
    """
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    moved: dict[str, list[float]] = {}
    for arrays, kind in re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", text):
        sizes = [
            BYTES.get(dtype, 4) * math.prod(map(int, filter(None, shape.split(","))))
            for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", arrays)
        ]
        moved.setdefault(kind, []).append(max(sizes) / 2**20)
    return {
        kind: {"count": len(sizes), "mib": sum(sizes), "largest_mib": max(sizes)}
        for kind, sizes in moved.items()
    }


def plain(network: str, batch_size: int, **model: Any) -> tuple[ConfigDict, Shape]:
    """Returns the config of a network without self-conditioning, in bfloat16, and its images."""
    make, shape = NETWORKS[network]
    made = make()
    made.model.update(self_condition=False, dtype="bfloat16", attention="xla", **model)
    made.train.batch_size = batch_size
    return made, shape


def measure(network: str, topology: str, batch_size: int, chips: int) -> dict[str, Any]:
    """Compiles a network's step, and returns the row of its figures on one of the chips."""
    made, shape = plain(network, batch_size * chips)
    devices = topologies.get_topology_desc(topology, "tpu").devices
    mesh = parallel.make_mesh((1, chips, 1), devices[:chips])
    chip = CHIPS[topology.partition(":")[0]]
    return {
        "network": network,
        "chips": chips,
        "batch_size": batch_size,
        **figures(program(made, shape, mesh), counted_flops(made, shape) / chips, chip, mesh),
    }


def figures(compiled: Program, flops: float, chip: Chip, mesh: Mesh) -> dict[str, Any]:
    """Returns the figures of a compiled step on one of the chips, which computes ``flops``."""
    text = compiled.run.as_text()
    cycles = estimated_cycles(text)
    memory = compiled.run.memory_analysis()
    moved = memory.argument_size_in_bytes + memory.output_size_in_bytes
    floors = {"flops": flops / chip.flops, "bytes": moved / chip.bytes}
    return {
        "device": mesh.devices.flat[0].device_kind,
        "cycles": cycles.total(),
        "flops": flops,
        "state_bytes": moved,
        "floor_cycles": floors,
        "cycles_over_floor": cycles.total() / max(floors.values()),
        "estimated_mfu": floors["flops"] / cycles.total(),
        "temp_bytes": memory.temp_size_in_bytes,
        "largest": dict(cycles.most_common(12)),
        "collectives": collectives(text),
        "compile_seconds": compiled.compile_seconds,
        "jax": jax.__version__,
    }


def counted_flops(made: ConfigDict, shape: Shape) -> float:
    """Returns the FLOPs of the products of a step."""
    learner = build.learner(made, shape, 1000 if made.model.class_conditional else 10, total=1000)
    state = jax.eval_shape(lambda: init_state(learner, shape))
    rows = made.train.batch_size
    batch = {
        "image": jax.ShapeDtypeStruct((rows, *shape), "float32"),
        "label": jax.ShapeDtypeStruct((rows,), "int32"),
    }
    return step_flops(learner, state, batch)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topology", default="v5e:2x2", help="e.g. v5e:2x2 or v5p:2x2x1")
    parser.add_argument(
        "--network", action="append", choices=NETWORKS, help="may be repeated (default: all)"
    )
    parser.add_argument("--batch_size", type=int, default=32, help="images of a chip (32)")
    parser.add_argument("--chips", type=int, default=1, help="chips that share parameters (1)")
    results = Path(__file__).parent / "results"
    parser.add_argument("--out", type=Path, default=results / "tpu_compile.jsonl")
    args = parser.parse_args()
    for network in args.network or NETWORKS:
        row = measure(network, args.topology, args.batch_size, args.chips)
        print(json.dumps(row, indent=2), flush=True)
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
