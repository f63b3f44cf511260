"""The classifier's network: the paper's size, its norm against flax's, and features of one image at
a time.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ddaepp_jax.scoring.wide_resnet import GROUP, WideResNet, _Norm


def parameters(module, shape):
    """Of a module, by shape alone."""
    made = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *shape)))["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(made))


@pytest.mark.parametrize(
    ("depth", "width", "published"),
    [
        (16, 2, 691_674),
        (40, 2, 2_243_546),
        (28, 10, 36_479_194),
    ],  # the paper's 0.7, 2.2 and 36.5 million
)
def test_size_is_the_papers(depth, width, published):
    """GroupNorm has the parameters of batch norm. The numbers are the authors' networks' for
    CIFAR-10, exactly.
    """
    assert parameters(WideResNet(10, depth, width), (32, 32, 3)) == published


@pytest.mark.parametrize(
    ("shape", "stride"), [((8, 8, 1), 1), ((8, 8, 1), 2), ((32, 32, 3), 1), ((33, 20, 3), 2)]
)
def test_shapes(shape, stride):
    module = WideResNet(7, 10, 2, stride)
    found = jax.eval_shape(module.init_with_output, jax.random.key(0), jnp.zeros((3, *shape)))[0]
    assert {name: f.shape for name, f in found.items()} == {"pool": (3, 128), "logits": (3, 7)}
    assert all(f.dtype == jnp.float32 for f in found.values())


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
    ours, theirs = apply(images), apply(others)
    for name, found in ours.items():
        np.testing.assert_array_equal(found[0], theirs[name][0])
        assert np.abs(found[1] - theirs[name][1]).max() > 1e-3


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
