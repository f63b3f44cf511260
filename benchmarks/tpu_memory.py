r"""Compiles train steps for slices of TPUs that need not be present, for what fits on a chip.

    TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu python benchmarks/tpu_memory.py

It needs libtpu. A row has the bytes that a step takes on each chip, its largest operations between
chips and its estimated cycles (see ``tpu_compile.py``), for a network in bfloat16, a number of
images a chip, and parameters sharded over ``fsdp`` of the chips. A step that the compiler refuses
has a row with the bytes that it needs. From the rows of two batches follows the largest batch that
fits, which is compiled in turn for the smallest slice.

Rows are appended to ``--out``, by default benchmarks/results/tpu_memory.jsonl, as JSON lines. The
same command again continues where it stopped, and prints the tables of all rows.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from tpu_compile import CHIPS, counted_flops, figures, plain, program

from ddaepp_jax.base import parallel
from ddaepp_jax.run.describe import gigabytes
from ddaepp_jax.training import memory


class Case(NamedTuple):
    """A step to compile: ``batch_size`` images a chip, parameters over ``fsdp`` of the chips."""

    topology: str
    chips: int
    fsdp: int
    network: str
    remat: str
    batch_size: int


NETWORKS = ("lightningdit_xl", "lightningdit_l", "lightningdit_b", "uvit_s")
REMATS = ("none", "block")
# Chips, and those of them that share parameters: 128 is the largest power of two that divides the
# width of LightningDiT-XL, 1,152.
TOPOLOGIES = {"v5e:2x4": (8, 8), "v5e:16x16": (256, 128), "v5p:4x4x4": (64, 64)}
SMALLEST = "v5e:2x4"
BATCHES = (32, 64)  # images a chip, by which the largest batch is predicted
# The compiler takes a part of the chips of one host, but a whole slice of several.
SWEEP = (("v5e:2x4", 8), ("v5e:2x4", 1), ("v5e:2x4", 4), ("v5e:2x4", 2))
SWEEP += (("v5e:4x8", 32), ("v5e:8x16", 128), ("v5e:4x4", 16), ("v5e:8x8", 64))
SHARDED = ("lightningdit_xl", "block", 8)  # network, remat and images a chip of the sweep over fsdp


def cases(rows: dict[Case, dict[str, Any]]) -> Iterator[Case]:
    """Yields the cases in order of importance; ``rows`` holds those that are finished."""
    for topology, chips in SWEEP:
        yield sharded(topology, chips)
    for topology in TOPOLOGIES:
        for network in NETWORKS:
            for remat in REMATS:
                yield whole(topology, network, remat, BATCHES[0])
    for network in NETWORKS:
        for remat in REMATS:
            yield whole(SMALLEST, network, remat, BATCHES[1])
    for network in NETWORKS:
        for remat in REMATS:
            if (batch := predicted(rows, SMALLEST, network, remat)) > 0:
                yield whole(SMALLEST, network, remat, batch)


def whole(topology: str, network: str, remat: str, batch_size: int) -> Case:
    """Returns the case on all chips of a topology."""
    return Case(topology, *TOPOLOGIES[topology], network, remat, batch_size)


def sharded(topology: str, chips: int) -> Case:
    """Returns the case of the sweep with parameters over some chips of a topology."""
    return Case(topology, chips, chips, *SHARDED)


def predicted(rows: dict[Case, dict[str, Any]], topology: str, network: str, remat: str) -> int:
    """Returns the largest batch a chip, by the bytes of an image; 0 without the rows of those.

    The bytes of an image are the same on all slices, and the second batch is compiled for the
    smallest slice alone.
    """
    slopes = [rows.get(whole(SMALLEST, network, remat, batch)) for batch in BATCHES]
    row = rows.get(whole(topology, network, remat, BATCHES[0]))
    if None in (row, *slopes):
        return 0
    more = slopes[1]["memory"] - slopes[0]["memory"]
    sizes = dict(zip(BATCHES, (row["memory"], row["memory"] + more), strict=True))
    return memory.on_line(sizes, row["capacity"])


def measure(case: Case) -> dict[str, Any]:
    """Compiles a case, and returns its row."""
    devices = topologies.get_topology_desc(case.topology, "tpu").devices[: case.chips]
    mesh = parallel.make_mesh((-1, case.fsdp, 1), devices)
    capacity = memory.capacity(mesh)
    made, shape = plain(case.network, case.batch_size * case.chips, remat=case.remat)
    form = memory.Form(case.remat, 1, made.train.batch_size)
    compiled, needed, available = memory.attempt(
        lambda _: program(made, shape, mesh), form, capacity
    )
    row = case._asdict() | {"memory": needed, "capacity": available, "fits": compiled is not None}
    if compiled:
        chip = CHIPS[case.topology.partition(":")[0]]
        row |= figures(compiled, counted_flops(made, shape) / case.chips, chip, mesh)
        del row["largest"]
    return row | {"jax": jax.__version__}


def read(file: Path) -> dict[Case, dict[str, Any]]:
    """Returns the finished rows by their cases."""
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {Case(*(row[name] for name in Case._fields)): row for row in rows}


def table(rows: dict[Case, dict[str, Any]]) -> Iterator[str]:
    """Yields the lines of a table of the finished rows on all chips of a topology, in Markdown."""
    yield "| slice | network | remat | memory, 32 images a chip | largest batch a chip | moved |"
    yield "|---|---|---|---|---|---|"
    for topology in TOPOLOGIES:
        for network in NETWORKS:
            for remat in REMATS:
                row = rows.get(whole(topology, network, remat, BATCHES[0]))
                if row:
                    batch = predicted(rows, topology, network, remat)
                    tried = rows.get(whole(topology, network, remat, batch))
                    known = {None: "predicted", True: "compiled", False: "refused"}
                    largest = f"{batch}, {known[tried and tried['fits']]}" if batch else ""
                    yield (
                        f"| {topology} | {network} | {remat} | {gigabytes(row['memory'])} | "
                        f"{largest} | {moved(row)} |"
                    )


def sweep(rows: dict[Case, dict[str, Any]]) -> Iterator[str]:
    """Yields the lines of a table of the sweep over the chips that share parameters."""
    network, remat, batch_size = SHARDED
    what = f"chips, {network}, {remat}, {batch_size} images each"
    yield f"| {what} | memory | state | cycles | moved |"
    yield "|---|---|---|---|---|"
    for case, row in sorted(rows.items(), key=lambda item: item[0].chips):
        if case == sharded(case.topology, case.chips):
            state = row["memory"] - row["temp_bytes"]
            yield (
                f"| {case.chips} | {gigabytes(row['memory'])} | {gigabytes(state)} | "
                f"{row['cycles'] / 1e6:.0f}M, {row['cycles_over_floor']:.2f} times the floor | "
                f"{moved(row)} |"
            )


def moved(row: dict[str, Any]) -> str:
    """Returns the operations between chips in a program's text, by kind: number and MiB."""
    kinds = row.get("collectives", {}).items()
    return ", ".join(f"{kind} {each['count']} ({each['mib']:.0f})" for kind, each in kinds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topology", action="append", help="only these (default: all)")
    results = Path(__file__).parent / "results"
    parser.add_argument("--out", type=Path, default=results / "tpu_memory.jsonl")
    args = parser.parse_args()
    rows = read(args.out)
    for case in cases(rows):
        if case in rows or (args.topology and case.topology not in args.topology):
            continue
        rows[case] = measure(case)
        jax.clear_caches()
        print(json.dumps(rows[case]), flush=True)
        with args.out.open("a") as file:
            file.write(json.dumps(rows[case]) + "\n")
    print(*table(rows), "", *sweep(rows), sep="\n")


if __name__ == "__main__":
    main()
