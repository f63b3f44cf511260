"""The classifier's network: the paper's sizes, Flax's norm, and independent images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ddaepp_jax.scoring.wide_resnet import GROUP, WideResNet, _Norm


def parameters(module, shape):
    """Returns the number of a module's parameters; nothing is computed."""
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *shape)))
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


# The paper has 0.7, 2.2 and 36.5 million.
@pytest.mark.parametrize(
    ("depth", "width", "published"), [(16, 2, 691_674), (40, 2, 2_243_546), (28, 10, 36_479_194)]
)
def test_size_is_the_papers(depth, width, published):
    """The numbers are those of the authors' networks for CIFAR-10.

    GroupNorm has as many parameters as batch norm.
    """
    assert parameters(WideResNet(10, depth, width), (32, 32, 3)) == published


@pytest.mark.parametrize(
    ("shape", "stride"), [((8, 8, 1), 1), ((8, 8, 1), 2), ((32, 32, 3), 1), ((33, 20, 3), 2)]
)
def test_shapes(shape, stride):
    module = WideResNet(7, 10, 2, stride)
    images = jnp.zeros((3, *shape))
    features, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
    shapes = {name: feature.shape for name, feature in features.items()}
    assert shapes == {"pool": (3, 128), "logits": (3, 7)}
    assert all(feature.dtype == jnp.float32 for feature in features.values())


def test_depths_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="depth 12"):
        WideResNet(10, 12).init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))


def test_features_of_an_image_do_not_depend_on_its_neighbours():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(-1, 1, (4, 8, 8, 3)), jnp.float32)
    others = images.at[1:].set(jnp.asarray(rng.uniform(-1, 1, (3, 8, 8, 3)) ** 3, jnp.float32))
    module = WideResNet(10, 10, 1)
    params = jax.jit(module.init)(jax.random.key(0), images)["params"]
    apply = jax.jit(lambda x: module.apply({"params": params}, x))
    a = apply(images)
    b = apply(others)
    for name in a:
        np.testing.assert_array_equal(a[name][0], b[name][0])
        assert np.abs(a[name][1] - b[name][1]).max() > 1e-3


def test_norm_is_flaxs_with_its_gradients():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(1, 2, (3, 5, 4, 3 * GROUP)), jnp.float32)
    params = {
        "scale": jnp.asarray(rng.normal(size=24), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=24), jnp.float32),
    }
    theirs = nn.GroupNorm(None, group_size=GROUP, epsilon=1e-5)

    def both(apply):
        value = lambda p, x: jnp.square(jnp.sin(apply(p, x))).sum()
        return jax.jit(jax.value_and_grad(value, (0, 1)))(params, x)

    ours = both(lambda p, x: _Norm().apply({"params": p}, x))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        ours,
        both(lambda p, x: nn.relu(theirs.apply({"params": p}, x))),
    )
