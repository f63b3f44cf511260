"""Time: durations resolved to steps, and rates that leave out compilation and pauses."""

import time
from contextlib import contextmanager

# Peak dense bfloat16 FLOP/s of one device, by the vendors' data sheets; a part of
# ``jax.Device.device_kind``.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "L4": 121e12,
    "V100": 125e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Peak FLOP/s of a device, None where it isn't known (CPUs)."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device_kind), None)


def total_steps(
    *,
    steps: int | None,
    epochs: float | None,
    images: int | None,
    batch_size: int,
    num_examples: int,
) -> int:
    """Steps of a duration given as steps, epochs or images, exactly one; rounded up."""
    if steps is not None:
        return steps
    wanted = images if images is not None else epochs * num_examples
    return int(-(-wanted // batch_size))


def next_stop(step: int, total: int, dispatch: int, periods: tuple[int, ...]) -> int:
    """Where the dispatch that starts at ``step`` ends: at most ``dispatch`` on, never past a
    multiple of a period.
    """
    return min(
        step + dispatch, total, *((step // period + 1) * period for period in periods if period)
    )


class Clock:
    """Images a second of the loop, pauses (evaluation, checkpoints) left out."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._paused = 0.0
        self._mark: tuple[float, int] | None = None

    def active_seconds(self) -> float:
        return time.perf_counter() - self._start - self._paused

    @contextmanager
    def pause(self):
        """Time inside doesn't count."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - start

    def rate(self, step: int) -> float:
        """Steps a second since the last call; the first call only marks."""
        now, mark = self.active_seconds(), self._mark
        self._mark = (now, step)
        return (step - mark[1]) / max(now - mark[0], 1e-9) if mark else 0.0
