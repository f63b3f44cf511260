"""Durations in steps, and the speed of training without compilation and pauses."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

# Peak dense bfloat16 FLOP/s of one device, from the vendors' data sheets. A key is a part of
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
    """Returns the peak FLOP/s of one device; None where it is unknown, as on a CPU."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device_kind), None)


def total_steps(
    *,
    steps: int | None,
    epochs: float | None,
    images: int | None,
    batch_size: int,
    num_examples: int,
) -> int | float:
    """Returns the number of steps, rounded up; exactly one of the first three is not None.

    Of ``epochs`` it is a float, which may be infinite.
    """
    if steps is not None:
        return steps
    if images is None:
        images = epochs * num_examples
    return -(-images // batch_size)


def next_stop(step: int, total: int, dispatch: int, periods: Sequence[int]) -> int:
    """Returns the step at which the dispatch that starts at ``step`` ends.

    It takes at most ``dispatch`` steps and never passes a multiple of a period (0: no period).
    """
    return min(
        step + dispatch, total, *((step // period + 1) * period for period in periods if period)
    )


class Clock:
    """The time of the loop without its pauses (evaluations, checkpoints)."""

    def __init__(self) -> None:
        """Starts the clock."""
        self._start = time.perf_counter()
        self._paused = 0.0
        self._last: tuple[float, int] | None = None

    def active_seconds(self) -> float:
        """Returns the seconds since the start, without pauses."""
        return time.perf_counter() - self._start - self._paused

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves the time inside the block out."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - start

    def rate(self, step: int) -> float:
        """Returns the steps per second since the last call; 0 at the first call."""
        now = self.active_seconds()
        last = self._last
        self._last = (now, step)
        if last is None:
            return 0.0
        last_time, last_step = last
        return (step - last_step) / max(now - last_time, 1e-9)
