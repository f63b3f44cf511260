"""The mesh, and the rules that shard parameters."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ddaepp_jax.base import parallel
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.training import sharding

TREE = {
    "a": {
        "kernel": jax.ShapeDtypeStruct((6, 16), jnp.float32),
        "bias": jax.ShapeDtypeStruct((5,), jnp.float32),
    },
    "count": jax.ShapeDtypeStruct((), jnp.int32),
}


def specs(rules, sizes=(2, 4, 1)):
    placed = sharding.infer(TREE, parallel.make_mesh(sizes), rules)
    return placed["a"]["kernel"].spec, placed["a"]["bias"].spec, placed["count"].spec


def test_mesh_sizes():
    assert dict(parallel.make_mesh((-1, 2, 1)).shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    for sizes in [(3, 1, 1), (-1, 3, 1), (-1, -1, 1), (0, 8, 1), (-2, 1, 1)]:
        with pytest.raises(InputError, match=r"mesh\.data"):
            parallel.make_mesh(sizes)


@dataclasses.dataclass(frozen=True)
class Device:
    """A device of one of several slices."""

    id: int
    slice_index: int
    process_index: int = 0
    platform: str = "cpu"
    device_kind: str = "none"


@pytest.mark.parametrize("sizes", [(-1, 4, 1), (-1, 2, 2), (2, 4, 1), (-1, 1, 1)])
def test_slices_lie_along_data(sizes):
    """Also where the devices of two slices come in turns."""
    mesh = parallel.make_mesh(sizes, [Device(i, i % 2) for i in range(8)])
    assert set(mesh.devices.flat) == {Device(i, i % 2) for i in range(8)}
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    assert [set(row.flat) for row in np.split(slices, 2)] == [{0}, {1}]


@pytest.mark.parametrize("sizes", [(-1, 8, 1), (1, -1, 2)])
def test_parameters_lie_within_a_slice(sizes):
    with pytest.raises(InputError, match=r"mesh\.fsdp.*2 slices of 4.*divide 4"):
        parallel.make_mesh(sizes, [Device(i, i // 4) for i in range(8)])


def test_fsdp_takes_the_inputs_or_else_the_largest_dimension_that_divides():
    assert specs([(".*", ("fsdp",))], (4, 2, 1)) == (P("fsdp", None), P(None), P())
    assert specs([(".*", ("fsdp",))])[0] == P(None, "fsdp")
    convolution = {"kernel": jax.ShapeDtypeStruct((4, 4, 3, 8), jnp.float32)}
    placed = sharding.infer(convolution, parallel.make_mesh((2, 4, 1)), [(".*", ("fsdp",))])
    assert placed["kernel"].spec == P(None, None, None, "fsdp")


def test_a_tpu_gathers_parameters_whole_unless_the_axis_tensor_splits_them():
    """The option is one of XLA's for TPUs; other platforms refuse it."""

    def options(platform, tensor):
        devices = np.array([SimpleNamespace(platform=platform)])
        return sharding.compiler_options(SimpleNamespace(devices=devices, shape={"tensor": tensor}))

    assert list(options("tpu", 1)) == ["xla_jf_spmd_threshold_for_windowed_einsum_mib"]
    assert options("tpu", 2) == options("cpu", 1) == options("gpu", 1) == {}


def test_first_matching_rule_applies_and_axes_stand_for_the_last_dimensions():
    rules = [("kernel", ("tensor", "")), (".*", ())]
    assert specs(rules, (2, 2, 2)) == (P("tensor", None), P(None), P())
    assert specs([("a/kernel$", ("", "fsdp"))])[:2] == (P(None, "fsdp"), P())


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("kernle", ("fsdp",))], "'kernle' matches no parameter"),
        ([(".*", ("fsdp",)), ("kernel", ("fsdp",))], "'kernel' matches no parameter"),
        ([("kernel", ("model",))], "no axis 'model'"),
        ([("kernel", ("fsdp", ""))], "does not divide a/kernel"),
    ],
)
def test_impossible_rules_are_refused(rules, message):
    with pytest.raises(InputError, match=message):
        specs(rules)
