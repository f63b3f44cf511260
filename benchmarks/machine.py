"""The machine and the date of a measurement."""

import os
import platform
import time
from typing import Any

import jax


def machine() -> dict[str, Any]:
    """Returns the columns of a row that say where and when it was measured."""
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "host": f"{platform.machine()}, {os.cpu_count()} cores",
        "jax": jax.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
