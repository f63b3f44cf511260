"""Steps compiled for TPUs that are not present, where libtpu is installed (pip install libtpu)."""

import re

import numpy as np
import pytest
from helpers.run import NO_EVALS, config

from ddaepp_jax import build
from ddaepp_jax import config as schema
from ddaepp_jax.base import parallel
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.run.fitting import compile_fitting

pytest.importorskip("libtpu", reason="needs libtpu, which compiles for TPUs")
pytestmark = pytest.mark.slow

NETWORKS = {
    "dit": schema.dit(width=512, depth=2, num_heads=4, bottleneck="block_1"),
    "uvit": schema.uvit(width=128, depth=4, num_heads=2, patch_size=2),
    "unet": schema.unet(
        channels=64, mults=(1, 1), attend=(False, True), blocks=1, bottleneck="out_1"
    ),
}


@pytest.fixture
def compiled(monkeypatch):
    """Returns a function that compiles a network's step for a mesh of a topology's first chips."""
    topologies = pytest.importorskip("jax.experimental.topologies")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

    def compile(name, topology, sizes, remat="none", slices=1, **fields):
        made = config(**NO_EVALS, **fields, optimizer__weight_decay=0.0, data__device_bytes=0)
        made.model = NETWORKS[name].copy_and_resolve_references()
        made.model.update(remat=remat, attention="xla", dtype="bfloat16")
        chips = topologies.get_topology_desc(topology, "tpu", num_slices=slices).devices
        mesh = parallel.make_mesh(sizes, chips[: int(np.prod(sizes))])
        names = tuple("abcdefghij")
        data = Dataset("none", "train", (32, 32, 3), 10, names, 1_000_000, lambda rows: ())
        learner = build.learner(made, data.image_shape, 10, 100)
        program, _ = compile_fitting(made, learner, data, mesh)
        return program.run, mesh

    return compile


def test_the_state_is_shared_by_the_chips(compiled):
    """Biases, scales and fixed positions are whole on each chip, and below 3 % of the state."""
    state = {}
    for chips in (1, 2, 4, 8):
        program, _ = compiled("dit", "v5e:2x4", (1, chips, 1), train__batch_size=8)
        state[chips] = program.memory_analysis().argument_size_in_bytes
    for chips, size in state.items():
        assert 1 <= size * chips / state[1] < 1 + 0.03 * chips


@pytest.mark.parametrize("name", ["uvit", "unet"])
def test_what_is_computed_again_takes_no_memory(compiled, name):
    fields = dict(train__batch_size=256)
    sizes = [
        compiled(name, "v5e:2x2", (1, 1, 1), remat, **fields)[0].memory_analysis()
        for remat in ("none", "block")
    ]
    none, block = (size.temp_size_in_bytes for size in sizes)
    assert block < 0.8 * none


def groups(program):
    """Yields the kind of each collective and its groups of devices, by their places in the mesh."""
    kinds = r" (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
    for line in program.as_text().splitlines():
        if kind := re.search(kinds, line):
            if iota := re.search(r"replica_groups=\[(.*?)\]<=\[(.*?)\](?:T\((.*?)\))?", line):
                shape, dims, order = (
                    [int(n) for n in (numbers or "").split(",") if n] for numbers in iota.groups()
                )
                numbers = np.arange(np.prod(dims)).reshape(dims)
                yield kind[1], numbers.transpose(order or None).reshape(shape).tolist()
            elif listed := re.search(r"replica_groups=\{(\{.*?\})\}", line):
                found = re.findall(r"\{(.*?)\}", listed[1])
                yield kind[1], [[int(n) for n in group.split(",")] for group in found]


def test_parameters_are_gathered_within_a_slice(compiled):
    """Between the slices, gradients are summed, and nothing is gathered."""
    program, mesh = compiled("dit", "v5e:2x2", (2, 4, 1), slices=2, train__batch_size=16)
    own = [device.slice_index for device in mesh.devices.flat]
    assert own == [0] * 4 + [1] * 4
    crossing = {"all-gather": 0, "all-reduce": 0, "reduce-scatter": 0}
    gathers = 0
    for kind, members in groups(program):
        crosses = any(len({own[i] for i in group}) > 1 for group in members)
        crossing[kind] = crossing.get(kind, 0) + crosses
        gathers += kind == "all-gather"
    assert gathers > 10 and crossing["all-gather"] == 0
    assert crossing["all-reduce"] + crossing["reduce-scatter"] > 0


def test_a_batch_that_the_compiler_refuses(compiled):
    with pytest.raises(InputError) as caught:
        compiled("dit", "v5e:2x2", (1, 1, 1), train__batch_size=4096)
    line = str(caught.value)
    assert line.startswith("train.batch_size: 4096 images need ") and "\n" not in line
    assert "TPU v5 lite has 15.75 GiB; at most " in line and "model.remat=block" in line
    assert 64 < int(re.search(r"at most (\d+) fit", line)[1]) < 4096
