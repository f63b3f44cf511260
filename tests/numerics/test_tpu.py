"""Steps compiled for TPUs that are not present, where libtpu is installed (pip install libtpu)."""

import re

import jax
import numpy as np
import pytest
from helpers.run import NO_EVALS, config
from jax.experimental.compilation_cache import compilation_cache

from ddaepp_jax import build
from ddaepp_jax import config as schema
from ddaepp_jax.base import parallel
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.run import absent
from ddaepp_jax.run.fitting import compile_fitting
from ddaepp_jax.training import memory
from ddaepp_jax.training.memory import Form

pytest.importorskip("libtpu", reason="needs libtpu, which compiles for TPUs")
pytestmark = pytest.mark.slow

NETWORKS = {
    "dit": schema.dit(width=256, depth=2, num_heads=4, patch_size=4, bottleneck="block_1"),
    "uvit": schema.uvit(width=128, depth=4, num_heads=2, patch_size=2),
    "unet": schema.unet(
        channels=64, mults=(1, 1), attend=(False, True), blocks=1, bottleneck="out_1"
    ),
}


@pytest.fixture
def compiled(monkeypatch):
    """Yields a function that compiles a network's step for a mesh of a topology's first chips."""
    topologies = pytest.importorskip("jax.experimental.topologies")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # A program for chips that are not present cannot be read out of JAX's cache.
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()

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

    yield compile
    jax.config.update("jax_enable_compilation_cache", before)
    compilation_cache.reset_cache()


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


def test_parameters_are_gathered_within_a_slice(compiled):
    """The text is the program of one slice. Between slices, the host sends what it is handed."""
    program, mesh = compiled("dit", "v5e:2x2", (2, 4, 1), slices=2, train__batch_size=16)
    assert [device.slice_index for device in mesh.devices.flat] == [0] * 4 + [1] * 4
    text = program.as_text()
    gathers = re.findall(r" all-gather(?:-start)?\(.*?replica_groups=(\S*),", text)
    assert len(gathers) > 10 and set(gathers) == {"{{0,1,2,3}}"}
    between = re.findall(r'_xla_megascale_transfer_type="(\w+)"', text)
    assert between and set(between) == {"ALL_REDUCE"}


def test_the_sizes_of_a_program_that_the_compiler_refuses(compiled):
    _, mesh = compiled("dit", "v5e:2x2", (1, 1, 1), train__batch_size=8)
    x = jax.ShapeDtypeStruct((2**34,), np.int8, sharding=parallel.replicated(mesh))
    compile = lambda _: jax.jit(lambda x: x + 1).lower(x).compile()
    program, needed, capacity = memory.attempt(compile, Form("none", 1, 8), None)
    assert program is None and needed >= 2 * 2**34
    assert capacity == memory.capacity(mesh) == 15.75 * memory.GIB


def test_a_dry_run_for_a_slice_that_is_not_present(monkeypatch, capsys):
    """The cache of programs is switched off by it, and on again here."""
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    before = jax.config.jax_enable_compilation_cache
    made = config(**NO_EVALS, data__name="latents", data__autoencoder="sd-vae")
    made.model = NETWORKS["dit"].copy_and_resolve_references()
    made.optimizer.weight_decay = 0.0
    try:
        absent.dry_run(made, "v5e:2x2")
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
    printed = capsys.readouterr().out
    assert "1281167 images of (32, 32, 4)" in printed and "chip-hours" in printed
