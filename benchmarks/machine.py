"""The machine and the date of a measurement."""

import os
import platform
import re
import time
from pathlib import Path
from typing import Any

import jax


def machine() -> dict[str, Any]:
    """Returns the columns of a row that say where and when it was measured."""
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "host": f"{_processor()}, {os.cpu_count()} cores",
        "jax": jax.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    """Returns the architecture and, on Linux, the processor's model."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return f"{platform.machine()} {model[1]}" if model else platform.machine()
