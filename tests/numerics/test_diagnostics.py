"""Diagnostics of features against closed forms and loops, and when a collapse is named."""

import math

import jax
import numpy as np
import pytest
from helpers.evaluations import evaluations, state, untrained
from helpers.run import config

from ddaepp_jax.base.parallel import make_mesh
from ddaepp_jax.probing import diagnostics
from ddaepp_jax.probing.diagnostics import (
    alignment,
    collapse,
    diagnose,
    effective_rank,
    spread,
    uniformity,
)

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape)


def test_alignment():
    z, lengths = normal(20, 5), RNG.uniform(0.1, 9, (20, 1))
    assert alignment(z, lengths * z) == pytest.approx(0, abs=1e-15) and alignment(
        z, -lengths * z
    ) == pytest.approx(4)
    assert alignment(np.eye(3), np.roll(np.eye(3), 1, axis=0)) == pytest.approx(2)
    a, b = normal(7, 4), normal(7, 4)
    cosines = [x @ y / math.sqrt((x @ x) * (y @ y)) for x, y in zip(a, b, strict=True)]
    assert alignment(a, b) == pytest.approx(np.mean([2 - 2 * c for c in cosines]))


@pytest.mark.parametrize("block", [1, 7, 50, 1024])
def test_uniformity_does_not_depend_on_the_block_size(block, monkeypatch):
    monkeypatch.setattr(diagnostics, "BLOCK", block)
    z = normal(50, 3)
    unit = [x / math.sqrt(x @ x) for x in z]
    pairs = [
        math.exp(-2 * sum((unit[i] - unit[j]) ** 2)) for i in range(50) for j in range(i + 1, 50)
    ]
    assert uniformity(z) == pytest.approx(math.log(sum(pairs) / len(pairs)), abs=1e-12)


def test_uniformity_at_its_ends():
    assert uniformity(normal(1, 5)) == 0 and uniformity(np.ones((30, 4))) == pytest.approx(
        0, abs=1e-14
    )
    assert uniformity(np.array([[1.0, 2], [-2, -4]])) == pytest.approx(-8)
    assert uniformity(np.eye(9)) == pytest.approx(-4)


def frame(n, d):
    """Returns ``n`` opposite pairs of orthogonal directions in ``d`` dimensions, with mean zero."""
    q = np.linalg.qr(normal(d, d))[0][:n]
    return np.concatenate([q, -q])


@pytest.mark.parametrize(("n", "d"), [(1, 8), (5, 8), (8, 8), (5, 40)])
def test_effective_rank_of_an_orthogonal_frame_is_its_dimension(n, d):
    assert effective_rank(frame(n, d)) == pytest.approx(n)
    assert effective_rank(frame(n, d) + 7) == pytest.approx(n)  # a common mean doesn't count


@pytest.mark.parametrize(("n", "d"), [(60, 12), (12, 60)])
def test_effective_rank_is_that_of_the_singular_values_and_of_the_shape_alone(n, d):
    z = normal(n, d) * np.logspace(0, -4, d)
    p = np.linalg.svd(z - z.mean(0, keepdims=True), compute_uv=False)[: min(n - 1, d)]
    p /= p.sum()
    assert effective_rank(z) == pytest.approx(math.exp(-sum(p * np.log(p))), rel=1e-9)
    rotation = np.linalg.qr(normal(d, d))[0]
    assert effective_rank(1e-3 * z @ rotation) == pytest.approx(effective_rank(z), rel=1e-9)
    line = normal(n, 1) * normal(1, d) + normal(1, d)
    assert effective_rank(line) == pytest.approx(1, abs=1e-12)
    assert effective_rank(line.astype(np.float32)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_constant_features(value):
    z = np.full((30, 7), value)
    assert diagnose(z, z) == pytest.approx(
        {"alignment": 0, "uniformity": 0, "effective_rank": 0, "spread": 0}
    )


def test_spread():
    assert spread(normal(20_000, 32)) == pytest.approx(1, abs=1e-3)
    z = normal(500, 6) + 2
    unit = z / np.sqrt(np.square(z).sum(1, keepdims=True))
    deviations = [math.sqrt(np.mean((unit[:, i] - unit[:, i].mean()) ** 2)) for i in range(6)]
    assert spread(z) == pytest.approx(np.mean(deviations) * math.sqrt(6))


def test_features_of_zeros_among_others():
    z = normal(20, 4)
    z[::3] = 0
    assert (
        all(math.isfinite(value) for value in diagnose(z, z).values())
        and alignment(z, np.zeros_like(z)) < 1
    )


def test_collapse_is_named_and_random_features_have_not_collapsed():
    assert collapse(diagnose(normal(64, 16), normal(64, 16))) == ""
    same = np.ones((64, 16)) + 1e-5 * normal(64, 16)
    assert "nearly the same" in collapse(diagnose(same, same))
    plane = normal(64, 2) @ normal(2, 16)
    assert "a direction or two (effective rank 1." in collapse(diagnose(plane, plane))


def test_in_training_collapse_is_said_in_a_line(capsys):
    mesh = make_mesh((1, 1, 1), jax.devices()[:1])
    made = config(evals__features__layer="in_1", evals__features__level=101.0)
    params = jax.tree.map(np.zeros_like, untrained(made, mesh))
    evaluations(made, mesh)["features"].measure(state(params))
    line = (
        "warning: in_1/t101: the features have collapsed: "
        "all images have nearly the same (spread 0)\n"
    )
    assert capsys.readouterr().out == line
