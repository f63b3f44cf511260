"""The Inception Score against torch-fidelity, plain loops and extreme cases."""

import math

import numpy as np
import pytest
from helpers.drawn import drawn_inputs
from helpers.feature_sets import SCORES
from hypothesis import given, settings
from hypothesis import strategies as st

from ddaepp_jax.scoring.inception_score import inception_score


def drawn_logits(shape):
    n, classes = map(int, shape.split("x"))
    return 3 * np.float64(drawn_inputs(f"logits.{shape}", (n, classes)))


@pytest.mark.parametrize("case", SCORES["inception_score"])
def test_equals_torch_fidelity(case):
    shape, splits = case.split(".")
    theirs = SCORES["inception_score"][case]
    assert inception_score(drawn_logits(shape), int(splits)) == pytest.approx(theirs, rel=1e-12)


def test_equals_plain_loops():
    logits = drawn_logits("103x7")
    scores = []
    for i in range(3):
        part = [[math.exp(x) for x in row] for row in logits[i * 103 // 3 : (i + 1) * 103 // 3]]
        p = [[x / sum(row) for x in row] for row in part]
        q = [sum(row[c] for row in p) / len(p) for c in range(7)]
        scores.append(
            math.exp(sum(x * math.log(x / q[c]) for row in p for c, x in enumerate(row)) / len(p))
        )
    mean = sum(scores) / 3
    std = math.sqrt(sum((score - mean) ** 2 for score in scores) / 3)
    assert inception_score(logits, 3) == pytest.approx((mean, std), rel=1e-12)


@pytest.mark.parametrize("size", [50.0, 1e4, 1e300])
def test_sure_and_different_answers_score_the_number_of_classes(size):
    """Probabilities underflow to zero here, and some classes never occur."""
    sure = size * np.eye(8)[np.arange(80) % 8]
    assert inception_score(sure) == pytest.approx((8, 0))
    two_more = np.concatenate([sure, np.full((80, 2), -size)], axis=1)
    assert inception_score(two_more) == pytest.approx((8, 0))
    assert inception_score(sure[::8]) == pytest.approx((1, 0))  # Sure, always of the same class.
    assert inception_score(np.zeros((80, 8))) == pytest.approx((1, 0))  # Never sure.


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_laws(seed, n, classes):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 4
    mean, std = inception_score(logits, 1)
    assert 1 - 1e-12 <= mean <= min(n, classes) * (1 + 1e-12) and std == 0
    assert inception_score(rng.permutation(logits), 1)[0] == pytest.approx(mean)
    assert inception_score(rng.permutation(logits, axis=1), 1)[0] == pytest.approx(mean)
    assert inception_score(logits + rng.normal(size=(n, 1)), 1)[0] == pytest.approx(mean)


def test_refusals():
    for logits, splits, reason in (
        (np.zeros(5), 1, "shape"),
        (np.zeros((5, 0)), 1, "shape"),
        (np.zeros((5, 3)), 6, "6 splits"),
        (np.zeros((5, 3)), 0, "0 splits"),
        (np.full((5, 3), -np.inf), 1, "finite"),
    ):
        with pytest.raises(ValueError, match=reason):
            inception_score(logits, splits)
