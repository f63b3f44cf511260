"""What benchmarks/backend.py calls a difference between an accelerator and the CPU."""

import numpy as np
import pytest
from backend import PARAMETER_BOUND, moved


def test_a_difference_is_relative_to_what_a_parameter_moved():
    start = np.ones((3, 4), np.float32)
    end = start + np.float32(0.5)
    assert moved(start, end, end) == 0
    assert moved(start, end, np.nextafter(end, 2)) < PARAMETER_BOUND
    assert moved(start, end, end + np.float32(0.005)) == pytest.approx(0.01, rel=1e-3)
    assert not moved(start, end, np.full_like(end, np.nan)) <= PARAMETER_BOUND
