"""Inception-v3 against the references' numbers for all resizings, and the names of its weights."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.errors import expect_error
from helpers.references import state_dict

from ddaepp_jax.convert import load_reference
from ddaepp_jax.released import inception_fid
from ddaepp_jax.scoring.inception import Inception, resizing_matrix

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "inception_fid.npz")


def images(height, width):
    """Returns the golden file's two images of a size, uint8."""
    raw = np.random.PCG64(height).random_raw(2 * height * width * 3)
    return (raw >> np.uint64(56)).astype(np.uint8).reshape(2, height, width, 3)


@pytest.fixture(scope="module")
def tensors():
    return state_dict(inception_fid)


@pytest.fixture(scope="module")
def reference(tensors):
    return load_reference("inception-fid", tensors)


def relative_error(ours, theirs):
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


SIZES = [(32, 32), (75, 50), (320, 320)]


@pytest.mark.parametrize(
    ("resizing", "size"),
    [
        pytest.param(
            resizing,
            size,
            marks=() if (resizing, size) == ("pytorch", (32, 32)) else pytest.mark.slow,
        )
        for resizing in ("pytorch", "tensorflow1")
        for size in SIZES
    ],
)
def test_features_equal_the_reference(reference, resizing, size):
    """Random networks' features differ by only 1% between images, so the bound is below 1e-4."""
    module, variables = reference
    features = jax.jit(module.clone(resizing=resizing).apply)(variables, images(*size))
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in features.items()} == {
        name: ((2, length), jnp.float32)
        for name, length in (("pool", 2048), ("spatial", 2023), ("logits", 1008))
    }
    for name, ours in features.items():
        assert relative_error(ours, GOLDEN[f"{resizing}.{size[0]}x{size[1]}.{name}"]) < 2e-5, name


@pytest.mark.slow
def test_kinds_of_numbers_and_batches_agree(reference):
    module, variables = reference
    apply = jax.jit(module.apply)
    whole = apply(variables, images(32, 32))
    floating = apply(variables, images(32, 32) / np.float32(255))
    alone = apply(variables, images(32, 32)[1:])
    for name, ours in whole.items():
        # The rounding of float32, as in the comparison with the golden numbers.
        assert relative_error(floating[name], ours) < 3e-6, name
        assert relative_error(alone[name], ours[1:]) < 3e-6, name


@pytest.mark.parametrize("resizing", ["pytorch", "tensorflow1"])
@pytest.mark.parametrize("size", [1, 32, 299, 320, 700])
def test_resizing_is_bilinear(resizing, size):
    """A loop over the definition: each new pixel lies between two old ones, or on the border."""
    matrix = resizing_matrix(resizing, size)
    expected = np.zeros((299, size))
    for i in range(299):
        source = (i + 0.5) * size / 299 - 0.5 if resizing == "pytorch" else i * size / 299
        source = max(source, 0.0)
        low = min(int(source), size - 1)
        high = min(low + 1, size - 1)
        expected[i, low] += 1 - (source - low)
        expected[i, high] += source - low
    np.testing.assert_allclose(matrix, expected, atol=1e-12)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
    if size == 299:
        np.testing.assert_array_equal(matrix, np.eye(299))


def test_the_resizings_differ_by_half_a_pixel():
    """A ramp becomes the coordinates themselves, in the interior."""
    ramp = np.arange(32.0)
    pytorch, tensorflow1 = (resizing_matrix(name, 32) @ ramp for name in ("pytorch", "tensorflow1"))
    np.testing.assert_allclose((tensorflow1 - pytorch)[20:-20], 0.5 - 0.5 * 32 / 299, atol=1e-12)


def test_parameter_count_is_the_references(tensors):
    sizes = {name: tensor.size for name, tensor in tensors.items()}
    assert sum(sizes.values()) == int(GOLDEN["num_params"]) == 23_885_392
    assert sum(size for name, size in sizes.items() if ".running_" not in name) == 23_850_960
    assert len(sizes) == 94 * 5 + 2


def test_weights_that_inference_does_not_need_are_dropped(tensors):
    extra = {
        "Conv2d_1a_3x3.bn.num_batches_tracked": np.zeros(()),
        "AuxLogits.fc.bias": np.zeros(1008),
    }
    module, variables = load_reference("inception-fid", tensors | extra)
    assert module == Inception() and set(variables) == {"params"}


def test_weights_that_do_not_fit_are_named(tensors):
    name = "Mixed_6c.branch7x7dbl_4.conv.weight"
    fewer = {each: tensor for each, tensor in tensors.items() if each != name}
    for wrong, field, *words in (
        (fewer, "tensors", "missing", name),
        (
            tensors | {name: np.zeros((160, 160, 1, 7))},
            f"tensor {name}",
            "(160, 160, 1, 7)",
            ", 7, 1)",
        ),
        (
            tensors | {"fc.weight": np.zeros((1000, 2048))},
            "tensor fc.weight",
            "(1000, 2048)",
            "(1008, 2048)",
        ),
        (tensors | {"Mixed_8a.conv.weight": np.zeros(1)}, "tensors", "not", "Mixed_8a.conv.weight"),
    ):
        with expect_error(field, *words):
            load_reference("inception-fid", wrong)
    assert inception_fid.arguments(tensors) == dict(num_classes=1008)
    with expect_error("inception-fid", "'resize_input'"):
        load_reference("inception-fid", tensors, resize_input=False)


def test_other_images_and_resizings_are_refused():
    for images, message in (
        (jnp.zeros((1, 8, 8, 1)), r"images: .*\(1, 8, 8, 1\)"),
        (jnp.zeros((8, 8, 3)), r"images: .*\(8, 8, 3\)"),
        (jnp.zeros((1, 8, 8, 3), jnp.int32), "images: .*int32"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(Inception().init, jax.random.key(0), images)
    with pytest.raises(ValueError, match=r"resizing: .*'bicubic'.*tensorflow1"):
        jax.eval_shape(
            Inception(resizing="bicubic").init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))
        )
