"""Where and when a row was measured."""

import os
import platform
import time
from typing import Any

import jax


def machine() -> dict[str, Any]:
    """The columns that say so, of a process whose backend runs."""
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "host": f"{platform.machine()}, {os.cpu_count()} cores",
        "jax": jax.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
