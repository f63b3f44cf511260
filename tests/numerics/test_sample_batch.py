"""The compiled sampling function: whose output its denoisers read, and whose parameters."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ddaepp_jax.base import parallel
from ddaepp_jax.base.parallel import make_mesh
from ddaepp_jax.diffusion.flow import Flow
from ddaepp_jax.sampling.draw import make_sample_batch, sample_images
from ddaepp_jax.sampling.settings import Sampling
from ddaepp_jax.sampling.trajectory import trajectory
from ddaepp_jax.scoring import image_sets


class Pulled(nn.Module):
    """The velocity from anywhere to ``to`` + y / 10; with a variance that no sampler may read where
    ``learned``.
    """

    learned: bool

    @nn.compact
    def __call__(self, x, t, y=None, capture=None):
        target = self.param("to", nn.initializers.zeros, ()) + (
            0 if y is None else y[:, None, None, None] / 10
        )
        out = (target - x) / (1 - t)[:, None, None, None]
        return jnp.concatenate([out, jnp.full_like(out, jnp.nan)], -1) if self.learned else out, {}


def pixels(value):
    return np.round(127.5 * (value + 1))


def test_every_networks_parameters_are_arguments_and_a_variance_is_left_out():
    mesh, labels = make_mesh((-1, 1, 1)), np.arange(5)
    sample_batch = make_sample_batch(
        Pulled(learned=True),
        Flow(),
        Sampling("euler", 6, guidance=1.5, autoguidance=2.0),
        image_shape=(4, 2, 3),
        mesh=mesh,
        guide=(Pulled(learned=False), Flow()),
    )
    for main, guide in ((-0.2, -0.1), (-0.5, -0.6)):
        params, worse = {"to": jnp.float32(main)}, {"to": jnp.float32(guide)}
        given = (sample_batch, params, 0, np.arange(5), labels, 8, mesh, worse)
        made = np.concatenate([images for images, _ in sample_images(*given)])
        assert made.shape == (5, 4, 2, 3) and made.dtype == np.uint8
        expected = pixels(guide + 2 * (main - guide) + 1.5 * labels / 10)
        assert np.abs(made - expected[:, None, None, None]).max() <= 1
    assert sample_batch._cache_size() == 1


@pytest.mark.parametrize(("sampler", "evaluations"), [("euler", 5), ("heun_flow", 9)])
def test_a_trajectory_has_an_estimate_for_each_evaluation(sampler, evaluations):
    """Also for those in a branch of a step. These networks know the clean image at any level."""
    trained = [(Pulled(learned=True), Flow(), {"to": jnp.float32(to)}) for to in (-0.2, -0.1)]
    sampling = Sampling(sampler, 5, guidance=1.5, autoguidance=2.0)
    levels, estimates = trajectory(
        trained[0], (4, 2, 3), sampling, 0, np.arange(3), np.arange(3), trained[1]
    )
    assert estimates.shape == (evaluations, 3, 4, 2, 3)
    expected = -0.1 + 2 * (-0.2 + 0.1) + 1.5 * np.arange(3) / 10
    np.testing.assert_allclose(
        estimates, np.broadcast_to(expected[:, None, None, None], estimates.shape), atol=1e-5
    )
    even = np.arange(5) / 5
    between = levels if sampler == "euler" else np.append(levels[:-1:2], levels[-1])
    np.testing.assert_allclose(between, even, atol=1e-6)


@pytest.mark.parametrize(("n", "drawn"), [(6, 6), (70, 80), (128, 128)])
def test_an_image_set_is_drawn_by_one_program(n, drawn):
    """Also where it is read in batches whose last one is not full; and little is drawn in vain."""
    mesh = make_mesh((-1, 1, 1))
    sample_batch = make_sample_batch(
        Pulled(learned=False), Flow(), Sampling("euler", 2), image_shape=(4, 2, 3), mesh=mesh
    )
    rows = []

    def draw(ids):
        pieces = sample_images(sample_batch, {"to": jnp.float32(0)}, 0, ids, None, 64, mesh)
        rows.append(sum(len(rows) for rows, _ in parallel.batches(len(ids), 64, mesh)))
        return np.concatenate([images for images, _ in pieces])

    whole = draw(np.arange(n))
    images = image_sets.of_draw(draw, "samples", (4, 2, 3), n)
    read = [images.read(ids)[:count] for ids, count in parallel.batches(n, 64, mesh)]
    assert sample_batch._cache_size() == 1
    assert rows[0] == sum(rows[1:]) == drawn
    np.testing.assert_array_equal(np.concatenate(read), whole)
